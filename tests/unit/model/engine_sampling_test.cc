// SPDX-License-Identifier: Apache-2.0
//
// What SamplingParams ask for, through the engine and with the shipped model.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "agent/model/generation.h"
#include "agent/model/grammar.h"
#include "agent/model/json_schema_grammar.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

class LogprobListener final : public Listener {
 public:
  void on_logprobs(std::span<const TokenLogprob> tokens) override {
    scored_.insert(scored_.end(), tokens.begin(), tokens.end());
  }
  void on_text(std::string_view text) override { heard_.on_text(text); }
  void on_complete(const Completion& completion) override { heard_.on_complete(completion); }
  void on_error(const Error& error) override { heard_.on_error(error); }

  [[nodiscard]] RecordingListener& heard() { return heard_; }
  /// Once it has ended.
  [[nodiscard]] const std::vector<TokenLogprob>& scored() const { return scored_; }

 private:
  RecordingListener heard_;
  std::vector<TokenLogprob> scored_;
};

TEST(EngineSampling, LogprobsBelongToTheTextThatIsTold) {
  const SteadyClock clock;
  const auto registry = make_registry(shipped(), clock);
  const auto ask = [&](std::vector<std::string> stop) {
    auto listener = std::make_shared<LogprobListener>();
    auto request = std::make_shared<GenerationRequest>();
    request->prompt = "Once upon a time";
    request->max_tokens = 40;
    request->sampling.temperature = 0;
    request->sampling.logprobs = 2;
    request->stop = std::move(stop);
    request->listener = listener;
    EXPECT_FALSE(registry->submit("tiny", request));
    EXPECT_TRUE(listener->heard().wait_end());
    return listener;
  };
  const auto joined = [](const LogprobListener& listener) {
    std::string text;
    for (const TokenLogprob& token : listener.scored()) text += token.chosen.bytes;
    return text;
  };
  const auto whole = ask({});
  ASSERT_TRUE(whole->heard().completion());
  EXPECT_EQ(joined(*whole), whole->heard().text());
  EXPECT_EQ(whole->scored().size(), whole->heard().completion()->usage.completion_tokens);
  for (const TokenLogprob& token : whole->scored()) {
    ASSERT_EQ(token.most_likely.size(), 2U);
    EXPECT_EQ(token.chosen.bytes, token.most_likely[0].bytes);  // greedy
    EXPECT_LE(token.chosen.logprob, 0);
    EXPECT_GE(token.most_likely[0].logprob, token.most_likely[1].logprob);
  }

  // What the stop string cuts off has no token either, but for one that begins before it.
  const std::string text = whole->heard().text();
  const auto cut = ask({text.substr(21, 6)});
  const std::string left = cut->heard().text();
  EXPECT_LT(left.size(), text.size());
  EXPECT_TRUE(joined(*cut).starts_with(left));
  ASSERT_FALSE(cut->scored().empty());
  EXPECT_LT(joined(*cut).size() - cut->scored().back().chosen.bytes.size(), left.size());
}

TEST(EngineSampling, ASchemaHoldsWithTheShippedModel) {
  const SteadyClock clock;
  const auto registry = make_registry(shipped(), clock);
  const auto schema = boost::json::parse(
      R"({"type":"object","properties":{"n":{"type":"integer","minimum":1,"maximum":9},)"
      R"("s":{"type":"string","maxLength":8}},"required":["n","s"],"additionalProperties":false})");
  for (const float temperature : {0.0F, 1.0F}) {
    Call call = greedy_call("Once upon a time", 200);
    call.request->sampling.temperature = temperature;
    call.request->sampling.seed = 4;
    call.request->sampling.grammar = *Grammar::parse(*json_schema_grammar(schema));
    ASSERT_FALSE(registry->submit("tiny", call.request));
    ASSERT_TRUE(call.heard->wait_end());
    ASSERT_TRUE(call.heard->completion()) << call.heard->error()->message;
    EXPECT_EQ(call.heard->completion()->reason, FinishReason::kStop);
    boost::json::error_code failure;
    const auto value = boost::json::parse(call.heard->text(), failure);
    ASSERT_FALSE(failure) << call.heard->text();
    EXPECT_GE(value.at("n").as_int64(), 1);
    EXPECT_LE(value.at("n").as_int64(), 9);
    EXPECT_TRUE(value.at("s").is_string());
  }
}

TEST(EngineSampling, ABiasForATokenThatIsNoneIsTheClientsMistake) {
  const SteadyClock clock;
  const auto registry = make_registry(shipped(), clock);
  Call call = greedy_call("Once", 4);
  call.request->sampling.logit_bias = {{1 << 30, 1}};
  ASSERT_FALSE(registry->submit("tiny", call.request));
  ASSERT_TRUE(call.heard->wait_end());
  ASSERT_TRUE(call.heard->error());
  EXPECT_EQ(call.heard->error()->code, Code::kInvalidArgument);
  EXPECT_TRUE(call.heard->error()->message.starts_with("logit_bias must name tokens in 0.."));
}

}  // namespace
}  // namespace weir::model
