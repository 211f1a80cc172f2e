// SPDX-License-Identifier: Apache-2.0
//
// Degraded answers: kept ones and the configured text.
#include "tests/unit/upstream/policy_fixture.h"

namespace weir::upstream {
namespace {

using model::Degraded;
using model::RefusalReason;

class DegradeTest : public PolicyTest {
 protected:
  void SetUp() override { options.degrade = {16, 1 << 20, "We are busy."}; }

  void refuse_with(RefusalReason reason) {
    models.refuse = [reason](std::string_view) { return refusal(reason, seconds(5)); };
  }
};

TEST_F(DegradeTest, DefaultTextWhenThereIsNoModelToAsk) {
  for (const RefusalReason reason : {RefusalReason::kLoading, RefusalReason::kBreakerOpen}) {
    refuse_with(reason);
    const Asked asked = ask();
    EXPECT_FALSE(asked.refused);
    EXPECT_EQ(asked.heard->degraded, Degraded::kDefault);
    EXPECT_EQ(asked.heard->text, "We are busy.");
    EXPECT_EQ(asked.heard->ends, 1);
    ASSERT_TRUE(asked.heard->completion);
    EXPECT_EQ(asked.heard->completion->usage.completion_tokens, 0U);
  }
  EXPECT_EQ(reading().degraded_default, 2U);
}

TEST_F(DegradeTest, DefaultTextWhenTheModelFailed) {
  const Asked asked = ask();
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_EQ(asked.heard->degraded, Degraded::kDefault);
  EXPECT_EQ(asked.heard->ends, 1);
}

TEST_F(DegradeTest, OnlyWhenRetriesAreAtTheirEnd) {
  options.retry = {2, milliseconds(25)};
  const Asked asked = ask();
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_FALSE(asked.heard->degraded);
  timers.pass(milliseconds(25));
  models.submitted.at(1).fail(Code::kUnavailable);
  EXPECT_EQ(asked.heard->degraded, Degraded::kDefault);
  EXPECT_EQ(asked.heard->text, "We are busy.");
}

TEST_F(DegradeTest, ByHealth) {
  options.fast_fail = {0.5, ""};
  for (int i = 0; i < 6; ++i) {
    ask();
    models.submitted.back().fail(Code::kIo);
  }
  const Asked asked = ask();
  EXPECT_FALSE(asked.refused);
  EXPECT_EQ(models.submitted.size(), 6U);
  EXPECT_EQ(asked.heard->degraded, Degraded::kDefault);
}

TEST_F(DegradeTest, OverloadIsNotHiddenByAText) {
  refuse_with(RefusalReason::kQueueFull);
  const Asked asked = ask();
  ASSERT_TRUE(asked.refused);
  EXPECT_EQ(asked.refused->reason, RefusalReason::kQueueFull);
}

TEST_F(DegradeTest, NothingStandsInForWrongInputDrainingOrALeavingClient) {
  for (const RefusalReason reason : {RefusalReason::kDraining, RefusalReason::kRateLimited,
                                     RefusalReason::kDeadline, RefusalReason::kCancelled}) {
    refuse_with(reason);
    EXPECT_TRUE(ask().refused);
  }
  models.refuse = [](std::string_view) { return std::nullopt; };
  const Asked wrong = ask();
  models.submitted.back().fail(Code::kInvalidArgument);
  EXPECT_EQ(wrong.heard->error->code, Code::kInvalidArgument);
  const Asked left = ask();
  left.request->cancel();
  models.submitted.back().fail(Code::kUnavailable);
  EXPECT_FALSE(left.heard->degraded);
}

TEST_F(DegradeTest, NotAfterTheFirstByte) {
  const Asked asked = ask();
  models.submitted[0].listener().on_text("On");
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_FALSE(asked.heard->degraded);
  EXPECT_TRUE(asked.heard->error);
}

TEST_F(DegradeTest, NotPastTheDeadline) {
  const Asked asked = ask("Once", seconds(1));
  clock.advance(seconds(1));
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_FALSE(asked.heard->degraded);
  EXPECT_TRUE(asked.heard->error);
}

TEST_F(DegradeTest, WithoutATextTheFailureIsPassedOn) {
  options.degrade->default_text.clear();
  refuse_with(RefusalReason::kLoading);
  EXPECT_TRUE(ask().refused);
}

class KeptAnswerTest : public DegradeTest {
 protected:
  /// Asks while the model is well.
  void answered(const std::string& prompt, const std::string& text) {
    ask(prompt);
    models.submitted.back().listener().on_text(text.substr(0, 1));
    models.submitted.back().complete(text.substr(1));
  }
};

TEST_F(KeptAnswerTest, IsGivenBeforeTheDefaultText) {
  answered("a", "answer to a");
  answered("b", "answer to b");
  for (const RefusalReason reason :
       {RefusalReason::kLoading, RefusalReason::kBreakerOpen, RefusalReason::kQueueFull}) {
    refuse_with(reason);
    const Asked asked = ask("a");
    EXPECT_EQ(asked.heard->degraded, Degraded::kCached);
    EXPECT_EQ(asked.heard->text, "answer to a");
    ASSERT_TRUE(asked.heard->completion);
    EXPECT_EQ(asked.heard->completion->usage.completion_tokens, 2U);
    EXPECT_EQ(asked.heard->completion->usage.prompt_tokens, 3U);
  }
  EXPECT_EQ(reading().degraded_cached, 3U);
  EXPECT_EQ(reading().cache_entries, 2U);
}

TEST_F(KeptAnswerTest, IsUsedForDegradingOnly) {
  answered("a", "answer");
  ask("a");
  EXPECT_EQ(models.submitted.size(), 2U);
}

TEST_F(KeptAnswerTest, IsNotForAnotherTenant) {
  answered("a", "answer");
  refuse_with(RefusalReason::kLoading);
  Asked other{std::make_shared<model::GenerationRequest>(), std::make_shared<HeardListener>(), {}};
  other.request->route = "/infer";
  other.request->prompt = "a";
  other.request->tenant = "other";
  other.request->sampling.temperature = 0;
  other.request->listener = other.heard;
  EXPECT_FALSE(executor().submit("main", other.request));
  EXPECT_EQ(other.heard->degraded, Degraded::kDefault);
}

TEST_F(KeptAnswerTest, ComesFromDeterministicRequestsOnly) {
  auto request = std::make_shared<model::GenerationRequest>();
  request->route = "/infer";
  request->prompt = "a";
  request->listener = std::make_shared<HeardListener>();
  EXPECT_FALSE(executor().submit("main", request));
  models.submitted.back().complete("one of many");
  EXPECT_EQ(reading().cache_entries, 0U);
}

TEST_F(KeptAnswerTest, IsAWholeAnswer) {
  ask("a");
  models.submitted.back().listener().on_text("half");
  models.submitted.back().fail(Code::kUnavailable);
  EXPECT_EQ(reading().cache_entries, 0U);
}

TEST_F(KeptAnswerTest, IsTheModelsOwn) {
  options.fast_fail = {0.5, "backup"};
  for (int i = 0; i < 6; ++i) {
    ask();
    models.submitted.back().fail(Code::kIo);
  }
  ask("a");
  ASSERT_EQ(models.submitted.back().model, "backup");
  models.submitted.back().complete("from the backup");
  EXPECT_EQ(reading().cache_entries, 0U);
}

TEST_F(KeptAnswerTest, TooLongAnswersAreNotCollected) {
  options.degrade->cache_bytes = 1000;
  answered("a", std::string(2000, 'x'));
  EXPECT_EQ(reading().cache_entries, 0U);
  answered("b", "short");
  EXPECT_EQ(reading().cache_entries, 1U);
}

}  // namespace
}  // namespace weir::upstream
