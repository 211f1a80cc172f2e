// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/logprobs_json.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "agent/serve/generation_json.h"
#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using model::TokenLogprob;

std::vector<TokenLogprob> three_tokens() {
  return {{{"caf", -0.5F}, {{"caf", -0.5F}, {"the", -1.25F}}},
          {{"\xC3", -2.0F}, {{"e", -0.25F}, {"e", -9.0F}}},
          {{"\xA9 \"", -1e-6F}, {}}};
}

TEST(LogprobsJson, HasTheShapeOfOpenAi) {
  std::string text;
  JsonWriter out(text);
  EXPECT_EQ(write_logprobs(out, three_tokens(), 10), 16U);
  EXPECT_EQ(text, R"({"tokens":["caf","bytes:\\xc3","bytes:\\xa9\\x20\\x22"],)"
                  R"("token_logprobs":[-0.5,-2,-1e-06],)"
                  R"("top_logprobs":[{"caf":-0.5,"the":-1.25},{"e":-0.25,"bytes:\\xc3":-2},)"
                  R"({"bytes:\\xa9\\x20\\x22":-1e-06}],)"
                  R"("text_offset":[10,13,14]})");
}

class LogprobsTest : public ServeTest {
 protected:
  /// The request with its answer, in two pieces, of which the second has no token of its own.
  HttpReply answer(const std::string& body) {
    HttpClient http = client();
    http.send_post("/v1/completions", body);
    const auto taken = executor.next();
    if (taken.request) {
      const auto tokens = three_tokens();
      if (taken.request->sampling.logprobs) taken.request->listener->on_logprobs(tokens);
      taken.request->listener->on_text("caf\xC3\xA9 \"");
      taken.request->listener->on_text("!");
      taken.request->listener->on_complete({});
    }
    return http.read_reply();
  }
};

TEST_F(LogprobsTest, AreInTheAnswerOnlyIfAskedFor) {
  const auto with = boost::json::parse(answer(R"({"prompt":"x","logprobs":2})").body);
  const auto& choice = with.at("choices").at(0);
  EXPECT_EQ(choice.at("text").get_string(), "caf\xC3\xA9 \"!");
  EXPECT_EQ(choice.at("logprobs").at("tokens").get_array().size(), 3U);
  EXPECT_EQ(choice.at("logprobs").at("text_offset").at(2), 4);
  const auto without = boost::json::parse(answer(R"({"prompt":"x"})").body);
  EXPECT_TRUE(without.at("choices").at(0).at("logprobs").is_null());
}

TEST_F(LogprobsTest, ComeWithThePieceTheyBeginIn) {
  const HttpReply reply = answer(R"({"prompt":"x","logprobs":2,"stream":true})");
  std::vector<boost::json::value> events;
  for (std::size_t at = 0; (at = reply.body.find("data: {", at)) != std::string::npos; ++at) {
    events.push_back(
        boost::json::parse(reply.body.substr(at + 6, reply.body.find("\n\n", at) - at - 6)));
  }
  ASSERT_EQ(events.size(), 3U) << reply.body;
  EXPECT_EQ(events[0].at("choices").at(0).at("logprobs").at("tokens").get_array().size(), 3U);
  EXPECT_TRUE(events[1].at("choices").at(0).at("logprobs").is_null());
  EXPECT_TRUE(events[2].at("choices").at(0).at("logprobs").is_null());
}

TEST_F(LogprobsTest, WhatOnlyTheModelCanTellNamesItsField) {
  const auto param_of_failure = [&](const std::string& message) {
    HttpClient http = client();
    http.send_post("/infer", R"({"prompt":"x"})");
    const auto taken = executor.next();
    if (taken.request) {
      taken.request->listener->on_error(make_error(Code::kInvalidArgument, message));
    }
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, 400);
    return error_field(reply, "param");
  };
  EXPECT_EQ(param_of_failure("logit_bias must name tokens in 0..9 of this model, not 12"),
            "logit_bias");
  EXPECT_EQ(param_of_failure("grammar: no token of this model can follow"), "grammar");
  EXPECT_EQ(param_of_failure("the prompt has 900 tokens"), "prompt");
}

}  // namespace
}  // namespace weir::serve
