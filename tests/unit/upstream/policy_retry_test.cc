// SPDX-License-Identifier: Apache-2.0
//
// Retries: what is tried again, when, and when no more.
#include "tests/unit/upstream/policy_fixture.h"

namespace weir::upstream {
namespace {

using model::RefusalReason;

class RetryTest : public PolicyTest {
 protected:
  void SetUp() override { options.retry = {3, milliseconds(25)}; }
};

TEST_F(RetryTest, RoutesWithoutAPolicyPassThrough) {
  auto request = std::make_shared<model::GenerationRequest>();
  request->route = "/v1/completions";
  EXPECT_FALSE(executor().submit("main", request));
  ASSERT_EQ(models.submitted.size(), 1U);
  EXPECT_EQ(models.submitted[0].request, request);  // itself, not an attempt at it
  EXPECT_EQ(reading().requests, 0U);
}

TEST_F(RetryTest, APolicyWithoutARouteIsThatOfAllOthers) {
  options.route.clear();
  const Asked asked = ask();
  EXPECT_NE(models.submitted.at(0).request, asked.request);
  EXPECT_EQ(reading().route, "*");
  EXPECT_EQ(reading().requests, 1U);
}

TEST_F(RetryTest, TheAttemptIsTheSameWorkWithoutTheReservation) {
  auto outer = std::make_shared<model::GenerationRequest>();
  outer->id = "id";
  outer->route = "/infer";
  outer->tenant = "t";
  outer->prompt = "p";
  outer->max_tokens = 9;
  outer->priority = 2;
  outer->deadline = clock.now() + seconds(1);
  outer->stop = {"s"};
  outer->sampling.temperature = 0.5F;
  outer->sampling.top_p = 0.6F;
  outer->sampling.top_k = 7;
  outer->sampling.seed = 8;
  outer->sampling.logit_bias = {{3, -4}};
  outer->sampling.logprobs = 2;
  outer->listener = std::make_shared<HeardListener>();
  outer->reservation = std::make_shared<int>(1);
  ASSERT_FALSE(executor().submit("main", outer));
  const model::GenerationRequest& attempt = *models.submitted.at(0).request;
  EXPECT_EQ(attempt.id, "id");
  EXPECT_EQ(attempt.route, "/infer");
  EXPECT_EQ(attempt.tenant, "t");
  EXPECT_EQ(attempt.prompt, "p");
  EXPECT_EQ(attempt.max_tokens, 9U);
  EXPECT_EQ(attempt.priority, 2);
  EXPECT_EQ(attempt.deadline, outer->deadline);
  EXPECT_EQ(attempt.stop, outer->stop);
  EXPECT_EQ(attempt.sampling.temperature, 0.5F);
  EXPECT_EQ(attempt.sampling.top_p, 0.6F);
  EXPECT_EQ(attempt.sampling.top_k, 7);
  EXPECT_EQ(attempt.sampling.seed, 8U);
  ASSERT_EQ(attempt.sampling.logit_bias.size(), 1U);
  EXPECT_EQ(attempt.sampling.logit_bias[0].token, 3);
  EXPECT_EQ(attempt.sampling.logprobs, 2U);
  EXPECT_EQ(attempt.reservation, nullptr);
}

TEST_F(RetryTest, TheReservationGoesBackWhenTheLastAttemptHasGone) {
  Asked asked = ask();
  const std::weak_ptr<void> reservation = asked.request->reservation = std::make_shared<int>(1);
  asked.request.reset();
  EXPECT_FALSE(reservation.expired());
  models.submitted[0].fail(Code::kUnavailable);
  models.submitted.clear();
  EXPECT_FALSE(reservation.expired());  // it waits for its next attempt
  timers.pass(milliseconds(25));
  models.submitted.at(0).complete("x");
  models.submitted.clear();
  EXPECT_TRUE(reservation.expired());
}

TEST_F(RetryTest, AFailedAttemptIsMadeAgain) {
  const Asked asked = ask();
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_EQ(asked.heard->ends, 0);
  timers.pass(milliseconds(25));
  ASSERT_EQ(models.submitted.size(), 2U);
  EXPECT_EQ(models.submitted[1].model, "main");
  models.submitted[1].complete("answer");
  EXPECT_EQ(asked.heard->text, "answer");
  EXPECT_EQ(asked.heard->ends, 1);
  ASSERT_TRUE(asked.heard->completion);
  EXPECT_EQ(asked.heard->completion->usage.completion_tokens, 2U);
  EXPECT_EQ(reading().retries, 1U);
}

TEST_F(RetryTest, TimesCountFromTheRequestNotFromTheAttempt) {
  const Asked asked = ask();
  clock.advance(seconds(2));
  models.submitted[0].fail(Code::kUnavailable);
  timers.pass(milliseconds(25));
  models.submitted[1].listener().on_complete(
      {model::FinishReason::kStop, {}, seconds(1), seconds(2), seconds(3)});
  ASSERT_TRUE(asked.heard->completion);
  EXPECT_GE(asked.heard->completion->queued, seconds(3));
  EXPECT_LE(asked.heard->completion->queued, seconds(3) + milliseconds(25));
  EXPECT_GE(asked.heard->completion->first_token, seconds(4));
  EXPECT_GE(asked.heard->completion->total, seconds(5));
}

TEST_F(RetryTest, ThreeAttemptsAreAll) {
  const Asked asked = ask();
  models.submitted[0].fail(Code::kInternal);
  timers.pass(milliseconds(25));
  models.submitted.at(1).fail(Code::kInternal);
  EXPECT_EQ(asked.heard->ends, 0);
  timers.pass(milliseconds(50));
  models.submitted.at(2).fail(Code::kIo);
  EXPECT_EQ(asked.heard->ends, 1);
  ASSERT_TRUE(asked.heard->error);
  EXPECT_EQ(asked.heard->error->code, Code::kIo);
  timers.pass(seconds(10));
  EXPECT_EQ(models.submitted.size(), 3U);
}

TEST_F(RetryTest, WaitsAreWithinABoundThatDoubles) {
  options.retry = {3, milliseconds(1000)};
  options.budget_percent = 100;
  Duration longest_first{};
  Duration longest_second{};
  for (int i = 0; i < 200; ++i) {
    models.submitted.clear();
    ask();
    const TimePoint first = clock.now();
    models.submitted[0].fail(Code::kUnavailable);
    while (models.submitted.size() < 2 && clock.now() < first + seconds(2)) {
      timers.pass(milliseconds(10));
    }
    longest_first = std::max(longest_first, clock.now() - first);
    const TimePoint second = clock.now();
    models.submitted.at(1).fail(Code::kUnavailable);
    while (models.submitted.size() < 3 && clock.now() < second + seconds(3)) {
      timers.pass(milliseconds(10));
    }
    longest_second = std::max(longest_second, clock.now() - second);
    models.submitted.at(2).complete("");
    clock.advance(seconds(1));
  }
  EXPECT_GT(longest_first, milliseconds(900));
  EXPECT_LE(longest_first, milliseconds(1010));
  EXPECT_GT(longest_second, milliseconds(1800));
  EXPECT_LE(longest_second, milliseconds(2010));
}

TEST_F(RetryTest, NeverAfterTheFirstByte) {
  const Asked asked = ask();
  models.submitted[0].listener().on_text("On");
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_EQ(asked.heard->text, "On");
  ASSERT_TRUE(asked.heard->error);
  timers.pass(seconds(10));
  EXPECT_EQ(models.submitted.size(), 1U);
  EXPECT_EQ(reading().retries, 0U);
}

TEST_F(RetryTest, WhatCannotSucceedIsNotTriedAgain) {
  int asked_so_far = 0;
  for (const Code code : {Code::kInvalidArgument, Code::kCancelled, Code::kUnsupported}) {
    const Asked asked = ask();
    models.submitted.at(static_cast<std::size_t>(asked_so_far++)).fail(code);
    ASSERT_TRUE(asked.heard->error);
    EXPECT_EQ(asked.heard->error->code, code);
  }
  timers.pass(seconds(10));
  EXPECT_EQ(models.submitted.size(), 3U);
}

TEST_F(RetryTest, ARefusalIsTriedAgainInsteadOfPassedOn) {
  models.refuse = [](std::string_view) { return refusal(RefusalReason::kQueueFull, seconds(2)); };
  const Asked asked = ask();
  EXPECT_FALSE(asked.refused);
  EXPECT_EQ(asked.heard->ends, 0);
  models.refuse = [](std::string_view) { return std::nullopt; };
  timers.pass(milliseconds(25));
  models.submitted.at(0).complete("x");
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_EQ(asked.heard->text, "x");
}

TEST_F(RetryTest, TheLastRefusalIsToldWithItsReason) {
  models.refuse = [](std::string_view) { return refusal(RefusalReason::kQueueFull, seconds(2)); };
  const Asked asked = ask();
  timers.pass(milliseconds(75));
  EXPECT_EQ(models.refused.size(), 3U);
  EXPECT_EQ(asked.heard->ends, 1);
  ASSERT_TRUE(asked.heard->refusal);
  EXPECT_EQ(asked.heard->refusal->reason, RefusalReason::kQueueFull);
  EXPECT_EQ(asked.heard->refusal->retry_after, seconds(2));
}

TEST_F(RetryTest, FinalRefusalsAreReturnedAtOnce) {
  for (const RefusalReason reason : {RefusalReason::kDraining, RefusalReason::kDeadline,
                                     RefusalReason::kRateLimited, RefusalReason::kCancelled}) {
    models.refuse = [reason](std::string_view) { return refusal(reason); };
    const Asked asked = ask();
    ASSERT_TRUE(asked.refused);
    EXPECT_EQ(asked.refused->reason, reason);
  }
  timers.pass(seconds(10));
  EXPECT_EQ(models.refused.size(), 4U);
}

TEST_F(RetryTest, AModelThatNamesATimeIsLeftAloneUntilThen) {
  models.refuse = [](std::string_view) { return refusal(RefusalReason::kLoading, seconds(5)); };
  const Asked asked = ask();
  ASSERT_TRUE(asked.refused);
  EXPECT_EQ(asked.refused->retry_after, seconds(5));
  EXPECT_EQ(models.refused.size(), 1U);
  EXPECT_EQ(reading().retries, 0U);
}

TEST_F(RetryTest, WithoutAPolicyForItARefusalIsReturnedAtOnce) {
  options.retry.reset();
  models.refuse = [](std::string_view) { return refusal(RefusalReason::kQueueFull, seconds(2)); };
  const Asked asked = ask();
  ASSERT_TRUE(asked.refused);
  EXPECT_EQ(asked.refused->reason, RefusalReason::kQueueFull);
}

TEST_F(RetryTest, NoAttemptStartsAfterTheDeadline) {
  options.retry = {3, milliseconds(1)};
  const Asked asked = ask("Once", seconds(1));
  clock.advance(seconds(1));
  models.submitted[0].fail(Code::kResourceExhausted);
  EXPECT_EQ(asked.heard->ends, 1);
  timers.pass(seconds(10));
  EXPECT_EQ(models.submitted.size(), 1U);
}

TEST_F(RetryTest, NoAttemptStartsThatWouldWaitPastTheDeadline) {
  options.retry = {3, milliseconds(1)};
  models.wait = milliseconds(500);
  const Asked hopeless = ask("Once", milliseconds(500));
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_EQ(hopeless.heard->ends, 1);
  const Asked in_time = ask("Once", milliseconds(502));
  models.submitted[1].fail(Code::kUnavailable);
  EXPECT_EQ(in_time.heard->ends, 0);
  timers.pass(milliseconds(1));
  EXPECT_EQ(models.submitted.size(), 3U);
}

TEST_F(RetryTest, TheBudgetEndsIt) {
  // Everything fails: of 1000 requests at once a fifth and the floor are tried again.
  for (int i = 0; i < 1000; ++i) ask();
  for (int i = 0; i < 1000; ++i) models.submitted[static_cast<std::size_t>(i)].fail(Code::kIo);
  timers.pass(milliseconds(25));
  EXPECT_EQ(models.submitted.size(), 1210U);
  EXPECT_EQ(reading().retries, 210U);
  EXPECT_EQ(reading().over_budget, 790U);
  EXPECT_EQ(reading().requests, 1000U);
}

TEST_F(RetryTest, CancelReachesTheAttempt) {
  const Asked asked = ask();
  asked.request->cancel();
  EXPECT_TRUE(models.submitted[0].cancelled());
  EXPECT_EQ(asked.heard->ends, 0);
  models.submitted[0].fail(Code::kCancelled);
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_EQ(asked.heard->error->code, Code::kCancelled);
}

TEST_F(RetryTest, ACancelledRequestIsNotTriedAgain) {
  const Asked asked = ask();
  asked.request->cancel();
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_EQ(asked.heard->ends, 1);
  timers.pass(seconds(10));
  EXPECT_EQ(models.submitted.size(), 1U);
}

TEST_F(RetryTest, CancelBetweenTwoAttemptsEndsIt) {
  const Asked asked = ask();
  models.submitted[0].fail(Code::kUnavailable);
  asked.request->cancel();
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_EQ(asked.heard->error->code, Code::kCancelled);
  EXPECT_EQ(timers.armed(), 0U);
  asked.request->cancel();
  timers.pass(seconds(10));
  EXPECT_EQ(models.submitted.size(), 1U);
  EXPECT_EQ(asked.heard->ends, 1);
}

TEST_F(RetryTest, CancelBeforeTheCancellerIsThereCounts) {
  auto request = std::make_shared<model::GenerationRequest>();
  const auto heard = std::make_shared<HeardListener>();
  request->route = "/infer";
  request->listener = heard;
  models.refuse = [&](std::string_view) {
    request->cancel();  // while it is being submitted
    return std::nullopt;
  };
  EXPECT_FALSE(executor().submit("main", request));
  EXPECT_TRUE(models.submitted.at(0).cancelled());
}

TEST_F(RetryTest, BackpressureReachesTheModel) {
  const Asked asked = ask();
  EXPECT_TRUE(models.submitted[0].listener().wants_more());
  asked.heard->wants = false;
  EXPECT_FALSE(models.submitted[0].listener().wants_more());
}

TEST(RetryShutdown, WhoWaitsIsToldOnceAndNothingIsSubmittedAnyMore) {
  FakeClock clock;
  SimulatedTimers timers(clock);
  PuppetModels models;
  SlaOptions options;
  options.retry = {3, milliseconds(25)};
  options.adaptive_retry = {2, milliseconds(500)};
  auto executor = std::make_unique<PolicyExecutor>(std::vector{options}, models, timers, clock, 1);
  std::vector<std::shared_ptr<HeardListener>> heard;
  for (int i = 0; i < 2; ++i) {
    auto request = std::make_shared<model::GenerationRequest>();
    heard.push_back(std::make_shared<HeardListener>());
    request->listener = heard.back();
    ASSERT_FALSE(executor->submit("main", request));
  }
  models.submitted[0].fail(Code::kUnavailable);  // waits; the other one is under way
  executor.reset();
  EXPECT_EQ(heard[0]->ends, 1);
  EXPECT_EQ(heard[0]->error->code, Code::kUnavailable);
  EXPECT_EQ(heard[1]->ends, 0);
  timers.pass(seconds(1));
  models.submitted[1].fail(Code::kUnavailable);
  EXPECT_EQ(heard[1]->ends, 1);
  timers.pass(seconds(1));
  EXPECT_EQ(models.submitted.size(), 2U);
  EXPECT_EQ(heard[0]->ends, 1);
}

}  // namespace
}  // namespace weir::upstream
