// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/sampling_fields.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "agent/model/grammar.h"
#include "agent/serve/generation_json.h"

namespace weir::serve {
namespace {

model::SamplingParams read(const std::string& fields) {
  const boost::json::value body = boost::json::parse("{" + fields + "}");
  JsonFields reader(body.get_object());
  model::SamplingParams sampling;
  read_sampling(reader, sampling);
  EXPECT_FALSE(reader.error().has_value()) << fields << ": " << reader.error()->message;
  return sampling;
}

TEST(SamplingFields, EachFieldSetsItsParameter) {
  const model::SamplingParams all =
      read(R"("temperature":0.5,"top_p":0.25,"top_k":7,"min_p":0.125,"seed":3,)"
           R"("repetition_penalty":1.5,"frequency_penalty":-2,"presence_penalty":2,)"
           R"("repeat_last_n":9,"logit_bias":{"0":-100,"12":1.5},"logprobs":0,)"
           R"("grammar":"root ::= [a]")");
  EXPECT_EQ(all.temperature, 0.5F);
  EXPECT_EQ(all.top_p, 0.25F);
  EXPECT_EQ(all.top_k, 7);
  EXPECT_EQ(all.min_p, 0.125F);
  EXPECT_EQ(all.seed, 3U);
  EXPECT_EQ(all.repetition_penalty, 1.5F);
  EXPECT_EQ(all.frequency_penalty, -2.0F);
  EXPECT_EQ(all.presence_penalty, 2.0F);
  EXPECT_EQ(all.penalty_window, 9U);
  ASSERT_EQ(all.logit_bias.size(), 2U);
  EXPECT_EQ(all.logit_bias[0].token, 0);
  EXPECT_EQ(all.logit_bias[0].bias, -100.0F);
  EXPECT_EQ(all.logit_bias[1].token, 12);
  EXPECT_EQ(all.logit_bias[1].bias, 1.5F);
  EXPECT_EQ(all.logprobs, 0U);
  ASSERT_NE(all.grammar, nullptr);
  EXPECT_EQ(all.grammar->source(), "root ::= [a]");
}

TEST(SamplingFields, WhatIsAbsentOrOffStaysAsItWas) {
  const model::SamplingParams none =
      read(R"("logprobs":null,"logit_bias":{},"grammar":null,"response_format":{"type":"text"})");
  EXPECT_EQ(none.temperature, model::SamplingParams{}.temperature);
  EXPECT_EQ(none.logprobs, std::nullopt);
  EXPECT_TRUE(none.logit_bias.empty());
  EXPECT_EQ(none.grammar, nullptr);
  EXPECT_EQ(read(R"("top_k":-1)").top_k, -1);
  EXPECT_EQ(read(R"("repeat_penalty":1.25)").repetition_penalty, 1.25F);
}

TEST(SamplingFields, AFormIsAGrammarASchemaOrAnyObject) {
  EXPECT_NE(read(R"("response_format":{"type":"json_object"})").grammar, nullptr);
  const auto named =
      read(R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,)"
           R"("schema":{"type":"integer"}}})");
  const auto direct = read(R"("json_schema":{"type":"integer"})");
  ASSERT_NE(named.grammar, nullptr);
  ASSERT_NE(direct.grammar, nullptr);
  EXPECT_EQ(named.grammar->source(), direct.grammar->source());
}

struct Rejected {
  std::string fields;
  std::string param;
  std::string message;
};

TEST(SamplingFields, RejectWithFieldValueAndRange) {
  const std::vector<Rejected> cases = {
      {R"("temperature":2.5)", "temperature",
       "\"temperature\" must be a number in [0, 2], not 2.5"},
      {R"("top_p":0)", "top_p", "\"top_p\" must be a number in (0, 1], not 0"},
      {R"("top_k":-2)", "top_k", "\"top_k\" must be an integer in -1..2147483647, not -2"},
      {R"("min_p":1.5)", "min_p", "\"min_p\" must be a number in [0, 1], not 1.5"},
      {R"("seed":"a")", "seed",
       "\"seed\" must be an integer in -9223372036854775808..9223372036854775807, not \"a\""},
      {R"("repetition_penalty":0)", "repetition_penalty",
       "\"repetition_penalty\" must be a number in [0.1, 10], not 0"},
      {R"("repeat_penalty":11)", "repeat_penalty",
       "\"repeat_penalty\" must be a number in [0.1, 10], not 11"},
      {R"("repeat_penalty":1,"repetition_penalty":1)", "repeat_penalty",
       "\"repeat_penalty\" is another name of \"repetition_penalty\": give one of them"},
      {R"("frequency_penalty":2.01)", "frequency_penalty",
       "\"frequency_penalty\" must be a number in [-2, 2], not 2.01"},
      {R"("presence_penalty":-3)", "presence_penalty",
       "\"presence_penalty\" must be a number in [-2, 2], not -3"},
      {R"("repeat_last_n":65537)", "repeat_last_n",
       "\"repeat_last_n\" must be an integer in 0..65536, not 65537"},
      {R"("logprobs":6)", "logprobs", "\"logprobs\" must be an integer in 0..5, not 6"},
      {R"("logprobs":true)", "logprobs", "\"logprobs\" must be an integer in 0..5, not true"},
      {R"("logit_bias":[1])", "logit_bias", "\"logit_bias\" must be an object, not [1]"},
      {R"("logit_bias":{"x":1})", "logit_bias",
       "\"logit_bias\" must have ids of tokens for keys, not \"x\""},
      {R"("logit_bias":{"-1":1})", "logit_bias",
       "\"logit_bias\" must have ids of tokens for keys, not \"-1\""},
      {R"("logit_bias":{"1":101})", "logit_bias",
       "\"logit_bias\" must have numbers in [-100, 100] for values, as 1 has not"},
      {R"("logit_bias":{"1":null})", "logit_bias",
       "\"logit_bias\" must have numbers in [-100, 100] for values, as 1 has not"},
      {R"("logit_bias":{"1":1,"01":2})", "logit_bias", "\"logit_bias\" names token 1 twice"},
      {R"("grammar":"root ::= \"a")", "grammar",
       "\"grammar\" must be GBNF: grammar, line 1, column 10: the string has no end"},
      {R"("grammar":1)", "grammar", "\"grammar\" must be a string, not 1"},
      {R"("grammar":"root ::= [a]","response_format":{"type":"json_object"})", "response_format",
       "\"response_format\" cannot stand beside \"grammar\": give one of them"},
      {R"("json_schema":{"type":"text"})", "json_schema",
       "\"json_schema\" must hold a schema that is supported: schema at #/type: must be object, "
       "array, string, number, integer, boolean or null, or a list of them"},
      {R"("response_format":"json")", "response_format",
       "\"response_format\" must be an object, not \"json\""},
      {R"("response_format":{"type":"xml"})", "response_format",
       "\"response_format\" must have a \"type\": \"text\", \"json_object\" or \"json_schema\""},
      {R"("response_format":{"type":"json_schema"})", "response_format",
       "\"response_format\" of type \"json_schema\" must have {\"json_schema\": {\"schema\": "
       "{...}}}"},
  };
  for (const Rejected& expected : cases) {
    // Through both doors, which have the same fields.
    const std::string body = "{\"prompt\":\"x\"," + expected.fields + "}";
    for (const auto& outcome :
         {parse_infer(body, TimePoint{}), parse_completion(body, TimePoint{})}) {
      const auto* error = std::get_if<ApiError>(&outcome);
      ASSERT_NE(error, nullptr) << body;
      EXPECT_EQ(error->status, 400U);
      EXPECT_EQ(error->code, "invalid_value");
      EXPECT_EQ(error->param, expected.param) << body;
      EXPECT_EQ(error->message, expected.message) << body;
    }
  }
}

TEST(SamplingFields, EachIsDocumented) {
  std::ifstream file("deploy/API.md");
  const std::string document((std::istreambuf_iterator<char>(file)), {});
  for (const char* const field :
       {"temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "repeat_penalty",
        "frequency_penalty", "presence_penalty", "repeat_last_n", "logit_bias", "logprobs",
        "grammar", "json_schema", "response_format"}) {
    // In the first column of a table.
    const std::string name = "`" + std::string(field) + "`";
    EXPECT_TRUE(document.find("\n| " + name) != std::string::npos ||
                document.find(", " + name + " |") != std::string::npos)
        << field;
  }
}

TEST(SamplingFields, BiasesAreBoundedInNumber) {
  std::string biases = "{\"prompt\":\"x\",\"logit_bias\":{\"0\":1";
  for (int i = 1; i <= 1024; ++i) biases += ",\"" + std::to_string(i) + "\":1";
  const auto outcome = parse_completion(biases + "}}", TimePoint{});
  const auto* error = std::get_if<ApiError>(&outcome);
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(error->message, "\"logit_bias\" must have at most 1024 tokens, not 1025");
}

}  // namespace
}  // namespace weir::serve
