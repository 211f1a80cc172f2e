// SPDX-License-Identifier: Apache-2.0
//
// Adaptive retry: a second attempt beside one that is slow.
#include "tests/unit/upstream/policy_fixture.h"

namespace weir::upstream {
namespace {

using model::RefusalReason;

class AdaptiveTest : public PolicyTest {
 protected:
  void SetUp() override { options.adaptive_retry = {2, milliseconds(500)}; }
};

TEST_F(AdaptiveTest, StartsAfterTheTimeWithoutAFirstByteAndOnlyOnce) {
  ask();
  timers.pass(milliseconds(499));
  EXPECT_EQ(models.submitted.size(), 1U);
  timers.pass(milliseconds(1));
  EXPECT_EQ(models.submitted.size(), 2U);
  EXPECT_FALSE(models.submitted[0].cancelled());
  timers.pass(seconds(60));
  EXPECT_EQ(models.submitted.size(), 2U);
  EXPECT_EQ(reading().adaptive_attempts, 1U);
}

TEST_F(AdaptiveTest, NotBesideOneThatHasBegunToAnswer) {
  ask();
  models.submitted[0].listener().on_text("O");
  EXPECT_EQ(timers.armed(), 0U);
  timers.pass(seconds(60));
  EXPECT_EQ(models.submitted.size(), 1U);
}

TEST_F(AdaptiveTest, TheFirstByteWinsAndTheOtherIsCancelled) {
  const Asked asked = ask();
  timers.pass(milliseconds(500));
  models.submitted.at(1).listener().on_text("second ");
  EXPECT_TRUE(models.submitted[0].cancelled());
  EXPECT_FALSE(models.submitted[1].cancelled());
  models.submitted[0].listener().on_text("first ");  // on its way already
  models.submitted[1].complete("wins");
  models.submitted[0].fail(Code::kCancelled);
  EXPECT_EQ(asked.heard->text, "second wins");
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_TRUE(asked.heard->completion);
  EXPECT_EQ(reading().adaptive_wins, 1U);
}

TEST_F(AdaptiveTest, TheFirstAttemptMayStillWin) {
  const Asked asked = ask();
  timers.pass(milliseconds(500));
  models.submitted[0].complete("first");
  EXPECT_TRUE(models.submitted.at(1).cancelled());
  models.submitted[1].listener().on_complete({});
  EXPECT_EQ(asked.heard->text, "first");
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_EQ(reading().adaptive_wins, 0U);
}

TEST_F(AdaptiveTest, AnEmptyAnswerIsAnAnswer) {
  const Asked asked = ask();
  timers.pass(milliseconds(500));
  models.submitted.at(1).listener().on_complete({});
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_TRUE(models.submitted[0].cancelled());
}

TEST_F(AdaptiveTest, AFailureBesideAnotherAttemptIsNotTheEnd) {
  options.retry = {3, milliseconds(25)};
  const Asked asked = ask();
  timers.pass(milliseconds(500));
  models.submitted[0].fail(Code::kUnavailable);
  EXPECT_EQ(asked.heard->ends, 0);
  timers.pass(seconds(1));
  EXPECT_EQ(models.submitted.size(), 2U);  // nor is it replaced
  models.submitted[1].complete("x");
  EXPECT_EQ(asked.heard->text, "x");
}

TEST_F(AdaptiveTest, WhenBothFailRetryGoesOnToItsOwnMaximum) {
  options.retry = {3, milliseconds(25)};
  const Asked asked = ask();
  timers.pass(milliseconds(500));
  models.submitted[0].fail(Code::kUnavailable);
  models.submitted.at(1).fail(Code::kUnavailable);
  timers.pass(milliseconds(50));
  models.submitted.at(2).fail(Code::kUnavailable);
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_TRUE(asked.heard->error);
}

TEST_F(AdaptiveTest, WithoutRetryBothFailingIsTheEnd) {
  const Asked asked = ask();
  timers.pass(milliseconds(500));
  models.submitted[0].fail(Code::kUnavailable);
  models.submitted.at(1).fail(Code::kIo);
  EXPECT_EQ(asked.heard->ends, 1);
  EXPECT_EQ(asked.heard->error->code, Code::kIo);
}

TEST_F(AdaptiveTest, ARefusedOneDoesNoHarm) {
  const Asked asked = ask();
  models.refuse = [](std::string_view) { return refusal(RefusalReason::kQueueFull); };
  timers.pass(milliseconds(500));
  EXPECT_EQ(models.refused.size(), 1U);
  EXPECT_EQ(asked.heard->ends, 0);
  models.submitted[0].complete("x");
  EXPECT_EQ(asked.heard->text, "x");
}

TEST_F(AdaptiveTest, NotWhileItWaitsForItsRetry) {
  options.retry = {3, milliseconds(60'000)};
  ask();
  timers.pass(milliseconds(499));
  models.submitted[0].fail(Code::kUnavailable);
  const auto attempts = models.submitted.size();
  timers.pass(milliseconds(1));
  EXPECT_EQ(reading().adaptive_attempts, 0U);
  EXPECT_LE(models.submitted.size(), attempts + 1);
}

TEST_F(AdaptiveTest, ComesOutOfTheBudget) {
  options.budget_percent = 20;
  for (int i = 0; i < 100; ++i) ask();
  timers.pass(milliseconds(500));
  EXPECT_EQ(reading().adaptive_attempts, 30U - 1);  // 20 % of a hundred, decayed by 5 %, and ten
  EXPECT_EQ(reading().over_budget, 71U);
}

TEST_F(AdaptiveTest, NotPastTheDeadline) {
  ask("Once", milliseconds(500));
  models.wait = milliseconds(300);
  ask("Once", milliseconds(800));
  ask("Once", milliseconds(801));
  timers.pass(milliseconds(500));
  EXPECT_EQ(models.submitted.size(), 4U);
}

TEST_F(AdaptiveTest, CancelReachesBoth) {
  const Asked asked = ask();
  timers.pass(milliseconds(500));
  asked.request->cancel();
  EXPECT_TRUE(models.submitted[0].cancelled());
  EXPECT_TRUE(models.submitted.at(1).cancelled());
  models.submitted[1].fail(Code::kCancelled);
  EXPECT_EQ(asked.heard->ends, 0);
  models.submitted[0].fail(Code::kCancelled);
  EXPECT_EQ(asked.heard->ends, 1);
}

TEST_F(AdaptiveTest, ACancelledRequestGetsNoSecondAttempt) {
  const Asked asked = ask();
  asked.request->cancel();
  timers.pass(seconds(1));
  EXPECT_EQ(models.submitted.size(), 1U);
}

TEST_F(AdaptiveTest, OneThatIsOvertakenDoesNotSpeakAgainstItsModel) {
  for (int i = 0; i < 10; ++i) {
    models.submitted.clear();
    ask();
    timers.pass(milliseconds(500));
    models.submitted.at(1).complete("x");
    models.submitted[0].fail(Code::kUnavailable);
  }
  const auto health = executor().reading().health;
  ASSERT_EQ(health.size(), 1U);
  EXPECT_EQ(health[0].second, 1.0);
}

}  // namespace
}  // namespace weir::upstream
