// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/generation_json.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace weir::serve {
namespace {

struct Rejected {
  std::string body;
  std::string code;
  std::string param;  ///< empty: none
  std::string message;
};

void expect_rejected(const Outcome<GenerationCall>& outcome, const Rejected& expected) {
  const auto* error = std::get_if<ApiError>(&outcome);
  ASSERT_NE(error, nullptr) << expected.body;
  EXPECT_EQ(error->status, 400U) << expected.body;
  EXPECT_EQ(error->code, expected.code) << expected.body;
  EXPECT_EQ(error->param.value_or(""), expected.param) << expected.body;
  EXPECT_EQ(error->message, expected.message) << expected.body;
}

Outcome<GenerationCall> parse_completion(std::string_view body) {
  return weir::serve::parse_completion(body, TimePoint{});
}

const GenerationCall& accepted(const Outcome<GenerationCall>& outcome) {
  static const GenerationCall kNone{};
  const auto* error = std::get_if<ApiError>(&outcome);
  EXPECT_EQ(error, nullptr) << error->message;
  return error == nullptr ? std::get<GenerationCall>(outcome) : kNone;
}

TEST(InferJson, RejectsWithFieldValueAndLimit) {
  const std::string deep = "{\"prompt\":" + std::string(40, '[');
  const std::vector<Rejected> cases = {
      {"", "invalid_json", "", "the body is not valid JSON: incomplete JSON at byte 0"},
      {"{", "invalid_json", "", "the body is not valid JSON: incomplete JSON at byte 1"},
      {R"({"prompt":nope})", "invalid_json", "",
       "the body is not valid JSON: syntax error at byte 10"},
      {R"({"prompt":"x"} y)", "invalid_json", "",
       "the body is not valid JSON: something follows the value at byte 15"},
      {deep, "invalid_json", "", "the body is not valid JSON: too deep at byte 41"},
      {R"(["prompt"])", "invalid_json", "", "the body must be a JSON object, not [\"prompt\"]"},
      {"{}", "invalid_value", "prompt", "\"prompt\" is required"},
      {R"({"prompt":null})", "invalid_value", "prompt", "\"prompt\" is required"},
      {R"({"prompt":3})", "invalid_value", "prompt", "\"prompt\" must be a string, not 3"},
      {R"({"prompt":"x","model":[]})", "invalid_value", "model",
       "\"model\" must be a string, not []"},
      {R"({"prompt":"x","max_tokens":0})", "invalid_value", "max_tokens",
       "\"max_tokens\" must be an integer in 1..2147483647, not 0"},
      {R"({"prompt":"x","max_tokens":"9"})", "invalid_value", "max_tokens",
       "\"max_tokens\" must be an integer in 1..2147483647, not \"9\""},
      {R"({"prompt":"x","max_tokens":18446744073709551615})", "invalid_value", "max_tokens",
       "\"max_tokens\" must be an integer in 1..2147483647, not 18446744073709551615"},
      {R"({"prompt":"x","temperature":2.5})", "invalid_value", "temperature",
       "\"temperature\" must be a number in [0, 2], not 2.5"},
      {R"({"prompt":"x","priority":8})", "invalid_value", "priority",
       "\"priority\" must be an integer in 0..7, not 8"},
      {R"({"prompt":"x","deadline_ms":86400001})", "invalid_value", "deadline_ms",
       "\"deadline_ms\" must be an integer in 1..86400000, not 86400001"},
      {R"({"prompt":"x","stop":""})", "invalid_value", "stop",
       "\"stop\" must hold strings of 1..256 bytes, not 0"},
      {R"({"prompt":"x","stop":[1]})", "invalid_value", "stop",
       "\"stop\" must be a string or a list of strings, not 1"},
      {R"({"prompt":"x","stop":["","","","","","","","","","","","","","","","",""]})",
       "invalid_value", "stop", "\"stop\" must hold at most 16 strings, not 17"},
      // The first fault is the one reported.
      {R"({"prompt":1,"max_tokens":0})", "invalid_value", "prompt",
       "\"prompt\" must be a string, not 1"},
  };
  for (const Rejected& expected : cases) {
    expect_rejected(parse_infer(expected.body, TimePoint{}), expected);
  }
}

TEST(InferJson, RejectsInvalidUtf8) {
  const auto outcome = parse_infer("{\"prompt\":\"\xC3(\"}", TimePoint{});
  ASSERT_TRUE(std::holds_alternative<ApiError>(outcome));
  EXPECT_EQ(std::get<ApiError>(outcome).code, "invalid_json");
}

TEST(InferJson, CutsLongValuesInMessagesAtACharacter) {
  std::string value = "\"";
  for (int i = 0; i < 50; ++i) value += "\xC3\xA9";
  const auto outcome = parse_infer("{\"prompt\":\"x\",\"seed\":" + value + "\"}", TimePoint{});
  ASSERT_TRUE(std::holds_alternative<ApiError>(outcome));
  std::string shown = "\"";
  for (int i = 0; i < 29; ++i) shown += "\xC3\xA9";
  EXPECT_TRUE(std::get<ApiError>(outcome).message.ends_with(", not " + shown + "..."))
      << std::get<ApiError>(outcome).message;
}

TEST(InferJson, NullAndUnknownFieldsAreIgnored) {
  const auto outcome = parse_infer(
      R"({"prompt":"x","max_tokens":null,"stop":null,"seed":null,"colour":{"a":1}})", TimePoint{});
  const GenerationCall& call = accepted(outcome);
  EXPECT_EQ(call.model, std::nullopt);
  EXPECT_EQ(call.request->max_tokens, 128U);
  EXPECT_EQ(call.request->sampling.seed, std::nullopt);
  EXPECT_EQ(call.request->deadline, std::nullopt);
  EXPECT_TRUE(call.request->stop.empty());
}

TEST(InferJson, SeedIsFoldedTo32Bits) {
  const auto seed = [](const std::string& text) {
    const auto outcome = parse_infer(R"({"prompt":"x","seed":)" + text + "}", TimePoint{});
    return accepted(outcome).request->sampling.seed;
  };
  EXPECT_EQ(seed("7"), 7U);
  EXPECT_EQ(seed("4294967298"), 3U);  // 2^32 + 2
  EXPECT_EQ(seed("-1"), 0U);
}

TEST(GenerationJson, WholeNumbersMayBeWrittenAsFractions) {
  const auto outcome =
      parse_infer(R"({"prompt":"x","max_tokens":16.0,"priority":7.0})", TimePoint{});
  const GenerationCall& call = accepted(outcome);
  EXPECT_EQ(call.request->max_tokens, 16U);
  EXPECT_EQ(call.priority, 7);
  for (const char* const tokens : {"1.5", "0.0", "1e300", "1e400"}) {
    const auto refused =
        parse_infer(std::string(R"({"prompt":"x","max_tokens":)") + tokens + "}", TimePoint{});
    ASSERT_TRUE(std::holds_alternative<ApiError>(refused)) << tokens;
    EXPECT_EQ(std::get<ApiError>(refused).param, "max_tokens");
  }
}

TEST(CompletionJson, TheSmallestTopPIsNotNothing) {
  const auto outcome = parse_completion(R"({"prompt":"x","top_p":1e-300})");
  EXPECT_GT(accepted(outcome).request->sampling.top_p, 0.0F);
}

TEST(CompletionJson, DeadlineCountsFromNow) {
  const TimePoint now{std::chrono::hours(2)};
  const auto outcome = weir::serve::parse_completion(R"({"prompt":"x","deadline_ms":250})", now);
  EXPECT_EQ(accepted(outcome).request->deadline, now + std::chrono::milliseconds(250));
  EXPECT_EQ(accepted(parse_completion(R"({"prompt":"x"})")).request->deadline, std::nullopt);
}

TEST(CompletionJson, DefaultsAreThoseOfOpenAi) {
  const auto outcome = parse_completion(R"({"model":"m","prompt":"x"})");
  const GenerationCall& call = accepted(outcome);
  EXPECT_EQ(call.model, "m");
  EXPECT_EQ(call.request->max_tokens, 16U);
  EXPECT_EQ(call.request->sampling.temperature, 1.0F);
  EXPECT_EQ(call.request->sampling.top_p, 1.0F);
  EXPECT_EQ(call.request->sampling.top_k, 0);
  EXPECT_FALSE(call.stream);
  EXPECT_FALSE(call.include_usage);
}

TEST(CompletionJson, ReadsEveryField) {
  const auto outcome = parse_completion(
      R"({"model":"m","prompt":"x","max_tokens":3,"temperature":0.5,"top_p":0.25,"seed":1,)"
      R"("stop":"end","stream":true,"stream_options":{"include_usage":true},"priority":4,"n":1,)"
      R"("echo":false,"best_of":1,"logprobs":null,"suffix":null,"presence_penalty":0,)"
      R"("frequency_penalty":0.0,"logit_bias":{},"user":"u"})");
  const GenerationCall& call = accepted(outcome);
  EXPECT_EQ(call.request->max_tokens, 3U);
  EXPECT_EQ(call.request->sampling.temperature, 0.5F);
  EXPECT_EQ(call.request->sampling.top_p, 0.25F);
  EXPECT_EQ(call.request->sampling.seed, 1U);
  EXPECT_EQ(call.request->stop, std::vector<std::string>{"end"});
  EXPECT_EQ(call.priority, 4);
  EXPECT_TRUE(call.stream);
  EXPECT_TRUE(call.include_usage);
}

TEST(CompletionJson, RefusesWhatItCannotDo) {
  const std::string lists =
      "\"prompt\" must be one string (or a list of one): lists of prompts and of tokens are not "
      "supported";
  const std::vector<Rejected> cases = {
      {R"({"prompt":["a","b"]})", "invalid_value", "prompt", lists},
      {R"({"prompt":[1,2]})", "invalid_value", "prompt", lists},
      {R"({"prompt":[]})", "invalid_value", "prompt", lists},
      {R"({"prompt":"x","n":2})", "invalid_value", "n",
       "\"n\" must be 1: one completion per request is supported, not 2"},
      {R"({"prompt":"x","best_of":2})", "invalid_value", "best_of",
       "\"best_of\" must be 1: one completion per request is supported, not 2"},
      {R"({"prompt":"x","echo":true})", "invalid_value", "echo",
       "\"echo\" must be false: returning the prompt is not supported"},
      {R"({"prompt":"x","suffix":"y"})", "invalid_value", "suffix",
       "\"suffix\" must be empty: insertion is not supported"},
      {R"({"prompt":"x","stream":1})", "invalid_value", "stream",
       "\"stream\" must be true or false, not 1"},
      {R"({"prompt":"x","stream_options":{"include_usage":"yes"}})", "invalid_value",
       "include_usage", "\"include_usage\" must be true or false, not \"yes\""},
  };
  for (const Rejected& expected : cases) {
    expect_rejected(parse_completion(expected.body), expected);
  }
}

}  // namespace
}  // namespace weir::serve
