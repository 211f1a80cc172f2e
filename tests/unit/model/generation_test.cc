// SPDX-License-Identifier: Apache-2.0
//
// What the engine generates, with the shipped model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/model/text_assembler.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

const char* const kPrompts[] = {"Once upon a time",       "Once there was a clever owl",
                                "One windy day",          "Once there was a fox",
                                "One day a girl named",   "Once upon a time there was a bear",
                                "Once there was a mouse", "One sunny day"};

class Generation : public testing::Test {
 protected:
  Call run(Call call) {
    EXPECT_FALSE(registry_->submit("tiny", call.request));
    EXPECT_TRUE(call.heard->wait_end());
    return call;
  }

  SteadyClock clock_;
  std::unique_ptr<Registry> registry_ = make_registry(shipped(), clock_);
};

TEST_F(Generation, TellsAStoryThatEndsByItself) {
  const Call call = run(greedy_call("Once upon a time", 400));
  const auto completion = call.heard->completion();
  ASSERT_TRUE(completion);
  EXPECT_EQ(completion->reason, FinishReason::kStop);
  const std::string text = call.heard->text();
  EXPECT_GT(text.size(), 200U);
  EXPECT_THAT(text, HasSubstr(" the "));
  EXPECT_EQ(replace_invalid_utf8(text), text);
  EXPECT_GT(completion->usage.prompt_tokens, 1U);
  EXPECT_GT(completion->usage.completion_tokens, 50U);
  EXPECT_LT(completion->usage.completion_tokens, 400U);
  EXPECT_LE(completion->queued, completion->first_token);
  EXPECT_LE(completion->first_token, completion->total);
  EXPECT_EQ(call.heard->ends(), 1);
  EXPECT_EQ(call.heard->late_events(), 0);
}

TEST_F(Generation, SameTextAloneAndInABatchOfEight) {
  std::vector<std::string> alone;
  for (const char* prompt : kPrompts) {
    alone.push_back(run(greedy_call(prompt, 300)).heard->text());
  }
  std::vector<Call> together;
  for (const char* prompt : kPrompts) {
    together.push_back(greedy_call(prompt, 300));
    ASSERT_FALSE(registry_->submit("tiny", together.back().request));
  }
  for (std::size_t i = 0; i < together.size(); ++i) {
    ASSERT_TRUE(together[i].heard->wait_end());
    EXPECT_EQ(together[i].heard->text(), alone[i]) << kPrompts[i];
  }
}

TEST_F(Generation, MaxTokensEndsWithLength) {
  const Call call = run(greedy_call("Once upon a time", 7));
  ASSERT_TRUE(call.heard->completion());
  EXPECT_EQ(call.heard->completion()->reason, FinishReason::kLength);
  EXPECT_EQ(call.heard->completion()->usage.completion_tokens, 7U);
}

TEST_F(Generation, StopStringCutsTheText) {
  const std::string whole = run(greedy_call("Once upon a time", 400)).heard->text();
  // Ten bytes from the middle: they span tokens, wherever these end.
  const std::string stop = whole.substr(whole.size() / 2, 10);
  Call call = greedy_call("Once upon a time", 400);
  call.request->stop = {"not in the story", stop};
  run(call);
  ASSERT_TRUE(call.heard->completion());
  EXPECT_EQ(call.heard->completion()->reason, FinishReason::kStop);
  EXPECT_EQ(call.heard->text(), whole.substr(0, whole.find(stop)));
}

TEST_F(Generation, SeedRepeatsTheText) {
  const auto sampled = [&](std::uint32_t seed) {
    Call call = greedy_call("Once upon a time", 120);
    call.request->sampling.temperature = 1.0F;
    call.request->sampling.seed = seed;
    return run(call).heard->text();
  };
  const std::string first = sampled(7);
  EXPECT_EQ(sampled(7), first);
  EXPECT_NE(sampled(8), first);
  // libllama takes this value for "draw a seed"; here it is a seed like any other.
  EXPECT_EQ(sampled(0xFFFFFFFF), sampled(0xFFFFFFFF));
}

TEST_F(Generation, ControlTokensInThePromptAreParsed) {
  const std::string chat =
      "<|im_start|>user\nTell me a story about a fox and a lantern.<|im_end|>\n"
      "<|im_start|>assistant\n";
  const Call call = run(greedy_call(chat, 400));
  ASSERT_TRUE(call.heard->completion());
  EXPECT_EQ(call.heard->completion()->reason, FinishReason::kStop);
  EXPECT_THAT(call.heard->text(), HasSubstr("fox"));
  EXPECT_LT(call.heard->completion()->usage.prompt_tokens, 40U);
}

// Divided by 1e-38 every logit would be infinite, and the choice among them arbitrary.
TEST_F(Generation, TheSmallestTemperatureIsGreedy) {
  const std::string greedy = run(greedy_call("Once upon a time", 20)).heard->text();
  Call call = greedy_call("Once upon a time", 20);
  call.request->sampling.temperature = 1e-38F;
  EXPECT_EQ(run(call).heard->text(), greedy);
}

TEST_F(Generation, RefusesParametersOutOfRange) {
  Call call = greedy_call("Once", 10);
  call.request->sampling.temperature = -1;
  EXPECT_EQ(run(call).heard->error()->code, Code::kInvalidArgument);
  call = greedy_call("Once", 10);
  call.request->sampling.temperature = 1;
  call.request->sampling.top_p = 0;
  EXPECT_THAT(run(call).heard->error()->message, HasSubstr("top_p"));
  EXPECT_THAT(run(greedy_call("Once", 0)).heard->error()->message, HasSubstr("max_tokens"));
}

TEST(GenerationContext, PromptLongerThanTheContextSaysBothFigures) {
  const SteadyClock clock;
  ModelOptions options = shipped(2);
  options.context_tokens = 32;
  const auto registry = make_registry(options, clock);
  std::string prompt;
  for (int i = 0; i < 100; ++i) {
    prompt += " the fox";
  }
  const Call call = greedy_call(prompt, 10);
  ASSERT_FALSE(registry->submit("tiny", call.request));
  ASSERT_TRUE(call.heard->wait_end());
  ASSERT_TRUE(call.heard->error());
  EXPECT_EQ(call.heard->error()->code, Code::kInvalidArgument);
  EXPECT_EQ(call.heard->error()->message,
            "the prompt has 201 tokens; the context of this model holds 32");
  EXPECT_EQ(registry->models().at(0).decode_steps, 0U);
}

TEST(GenerationContext, FullContextEndsWithLength) {
  const SteadyClock clock;
  ModelOptions options = shipped(2);
  options.context_tokens = 32;
  const auto registry = make_registry(options, clock);
  const Call call = greedy_call("Once upon a time", 400);
  ASSERT_FALSE(registry->submit("tiny", call.request));
  ASSERT_TRUE(call.heard->wait_end());
  const auto completion = call.heard->completion();
  ASSERT_TRUE(completion);
  EXPECT_EQ(completion->reason, FinishReason::kLength);
  // The last token is sampled from a full cache and has no cell of its own.
  EXPECT_EQ(completion->usage.prompt_tokens + completion->usage.completion_tokens, 33U);
  EXPECT_EQ(registry->models().at(0).context_tokens, 32U);
}

// A prompt of several chunks gives the same text as the model gives in one pass.
TEST(GenerationContext, LongPromptIsPrefilledInChunks) {
  const SteadyClock clock;
  ModelOptions options = shipped(1);
  options.context_tokens = 2048;
  const auto registry = make_registry(options, clock);
  std::string prompt;
  for (int i = 0; i < 700; ++i) {
    prompt += " the fox";
  }
  const Call call = greedy_call(prompt, 4);
  ASSERT_FALSE(registry->submit("tiny", call.request));
  ASSERT_TRUE(call.heard->wait_end());
  ASSERT_TRUE(call.heard->completion());
  const ModelInfo info = registry->models().at(0);
  EXPECT_EQ(info.prompt_tokens, 1401U);
  EXPECT_EQ(info.prompt_tokens, call.heard->completion()->usage.prompt_tokens);
  // A first chunk of 32 tokens and no fewer than three of at most 512; the last gives the first
  // token.
  EXPECT_GE(info.decode_steps, 4U + call.heard->completion()->usage.completion_tokens - 1);
}

}  // namespace
}  // namespace weir::model
