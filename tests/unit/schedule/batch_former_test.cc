// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/batch_former.h"

#include <gtest/gtest.h>

#include <random>

namespace weir::schedule {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr TimePoint kNow{std::chrono::hours(1)};

BatchQueue queue(std::size_t waiting, Duration age,
                 std::optional<TimePoint> deadline = std::nullopt) {
  return {waiting, kNow - age, deadline};
}

BatchOptions in_mode(BatchMode mode) {
  BatchOptions options;
  options.mode = mode;
  return options;
}

/// A former that has learned step_time(n) = fixed + n * item, and a stream with this gap that ends
/// at kNow.
BatchFormer experienced(Duration fixed, Duration item, Duration gap) {
  BatchFormer former(in_mode(BatchMode::kLearned));
  for (int round = 0; round < 20; ++round) {
    for (int n = 1; n <= 32; ++n) former.ran(static_cast<std::size_t>(n), fixed + n * item);
  }
  for (int i = 300; i >= 0; --i) former.arrived(kNow - i * gap);
  return former;
}

TEST(BatchFormer, NeverStartsAnEmptyBatch) {
  for (const BatchMode mode : {BatchMode::kFixed, BatchMode::kByLoad, BatchMode::kLearned}) {
    BatchFormer former(in_mode(mode));
    const BatchDecision decision = former.decide({}, kNow);
    EXPECT_EQ(decision.take, 0U);
    EXPECT_EQ(decision.look_again, std::nullopt);
  }
}

TEST(BatchFormer, WaitsTheWindowOfTheOldestMember) {
  BatchFormer former(in_mode(BatchMode::kFixed));
  const BatchDecision early = former.decide(queue(3, milliseconds(2)), kNow);
  EXPECT_EQ(early.take, 0U);
  EXPECT_EQ(early.look_again, kNow + milliseconds(3));
  const BatchDecision late = former.decide(queue(3, milliseconds(5)), kNow);
  EXPECT_EQ(late.take, 3U);
  EXPECT_EQ(late.cause, BatchCause::kTimeout);
}

TEST(BatchFormer, StartsAtThePreferredSize) {
  BatchFormer former(in_mode(BatchMode::kFixed));
  EXPECT_EQ(former.decide(queue(15, {}), kNow).take, 0U);
  const BatchDecision decision = former.decide(queue(20, {}), kNow);
  EXPECT_EQ(decision.take, 20U);
  EXPECT_EQ(decision.cause, BatchCause::kPreferred);
}

TEST(BatchFormer, StartsAFullBatchAndTakesNoMore) {
  BatchFormer former(in_mode(BatchMode::kFixed));
  const BatchDecision decision = former.decide(queue(100, {}), kNow);
  EXPECT_EQ(decision.take, 32U);
  EXPECT_EQ(decision.cause, BatchCause::kFull);
}

TEST(BatchFormer, CapsThePreferredSizeAtTheLargest) {
  BatchOptions options;
  options.max_batch_size = 4;
  BatchFormer former(options);
  EXPECT_EQ(former.decide(queue(3, {}), kNow).take, 0U);
  EXPECT_EQ(former.decide(queue(4, {}), kNow).take, 4U);
}

TEST(BatchFormer, DoesNotWaitForCompanyPastADeadline) {
  BatchFormer former(in_mode(BatchMode::kFixed));
  former.ran(1, milliseconds(2));
  former.ran(2, milliseconds(2));
  // Three would take up to 3 ms: the batch has to start at the deadline less that.
  const BatchDecision decision =
      former.decide(queue(2, milliseconds(0), kNow + milliseconds(4)), kNow);
  EXPECT_EQ(decision.take, 0U);
  ASSERT_TRUE(decision.look_again);
  EXPECT_GE(*decision.look_again, kNow + milliseconds(1));
  EXPECT_LE(*decision.look_again, kNow + milliseconds(2));
  const BatchDecision urgent =
      former.decide(queue(2, milliseconds(0), kNow + milliseconds(2)), kNow);
  EXPECT_EQ(urgent.take, 2U);
  EXPECT_EQ(urgent.cause, BatchCause::kDeadline);
}

TEST(BatchFormer, DoesNotRiskADeadlineBeforeItKnowsTheStepTime) {
  BatchFormer former(in_mode(BatchMode::kFixed));
  EXPECT_EQ(former.decide(queue(2, {}, kNow + milliseconds(100)), kNow).take, 2U);
}

TEST(BatchFormer, ChoosesALevelByTheNumberWaiting) {
  BatchOptions options = in_mode(BatchMode::kByLoad);
  options.max_batch_size = 100;
  BatchFormer former(options);
  EXPECT_EQ(former.decide(queue(9, {}), kNow).look_again, kNow + milliseconds(100));
  EXPECT_EQ(former.decide(queue(10, {}), kNow).look_again, kNow + milliseconds(50));
  EXPECT_EQ(former.decide(queue(49, {}), kNow).look_again, kNow + milliseconds(50));
  EXPECT_EQ(former.decide(queue(50, {}), kNow).look_again, kNow + milliseconds(10));
  EXPECT_EQ(former.decide(queue(50, milliseconds(10)), kNow).take, 50U);
  EXPECT_EQ(former.decide(queue(250, {}), kNow).take, 100U);
}

TEST(BatchFormer, CapsLevelsAtTheLargestSize) {
  BatchFormer former(in_mode(BatchMode::kByLoad));
  const BatchDecision decision = former.decide(queue(40, {}), kNow);
  EXPECT_EQ(decision.take, 32U);
  EXPECT_EQ(decision.cause, BatchCause::kFull);
}

TEST(BatchFormer, TakesNoMoreThanTheLevelSays) {
  BatchOptions options = in_mode(BatchMode::kByLoad);
  options.levels = {{20, 4, milliseconds(1)}, {{}, 8, milliseconds(2)}};
  BatchFormer former(options);
  EXPECT_EQ(former.decide(queue(10, {}), kNow).take, 4U);
  EXPECT_EQ(former.decide(queue(30, {}), kNow).take, 8U);
}

TEST(BatchFormer, DoesNotWaitBeforeItHasLearned) {
  BatchFormer former(in_mode(BatchMode::kLearned));
  former.arrived(kNow);
  EXPECT_EQ(former.decide(queue(1, {}), kNow).take, 1U);
}

TEST(BatchFormer, DoesNotWaitWhereTheFixedPartIsNothing) {
  BatchFormer former = experienced(Duration(0), milliseconds(1), microseconds(10));
  const BatchDecision decision = former.decide(queue(1, {}), kNow);
  EXPECT_EQ(decision.take, 1U);
  EXPECT_EQ(decision.cause, BatchCause::kNoGain);
}

TEST(BatchFormer, DoesNotWaitForATrickle) {
  BatchFormer former = experienced(milliseconds(5), microseconds(50), milliseconds(20));
  EXPECT_EQ(former.decide(queue(1, {}), kNow).take, 1U);
}

TEST(BatchFormer, KnowsAStreamThatBeginsAfterAPauseBySixteenRequests) {
  BatchFormer former = experienced(milliseconds(5), microseconds(50), microseconds(500));
  const TimePoint begin = kNow + std::chrono::hours(8);
  for (int i = 0; i < 16; ++i) former.arrived(begin + i * microseconds(500));
  const TimePoint now = begin + 15 * microseconds(500);
  EXPECT_EQ(former.decide({.waiting = 1, .oldest = now, .deadline = {}}, now).take, 0U);
  // And one that does not come back is not waited for.
  EXPECT_EQ(former.decide({.waiting = 1, .oldest = now, .deadline = {}}, now + seconds(1)).take,
            1U);
}

TEST(BatchFormer, WaitsWhileCompanyGainsMoreThanItCosts) {
  // fixed 5 ms, item 0.05 ms, gap 0.5 ms: pays while (n + 1) * 0.5 < 5 - n * 0.05.
  BatchFormer former = experienced(milliseconds(5), microseconds(50), microseconds(500));
  const BatchDecision one = former.decide(queue(1, {}), kNow);
  EXPECT_EQ(one.take, 0U);
  ASSERT_TRUE(one.look_again);
  EXPECT_NEAR(std::chrono::duration<double>(*one.look_again - kNow).count(), 4.95e-3 / 2, 1e-4);
  EXPECT_EQ(former.decide(queue(8, {}), kNow).take, 0U);
  const BatchDecision nine = former.decide(queue(9, {}), kNow);
  EXPECT_EQ(nine.take, 9U);
  EXPECT_EQ(nine.cause, BatchCause::kNoGain);
  // Nobody came for as long as one would have waited.
  const BatchDecision later = former.decide(queue(1, milliseconds(3)), kNow + milliseconds(3));
  EXPECT_EQ(later.take, 1U);
}

TEST(BatchFormer, LearnedWaitsNoLongerThanTheWindow) {
  BatchOptions options = in_mode(BatchMode::kLearned);
  options.timeout = Duration(0);
  BatchFormer former(options);
  for (int round = 0; round < 20; ++round) {
    for (int n = 1; n <= 32; ++n) {
      former.ran(static_cast<std::size_t>(n), milliseconds(5) + n * microseconds(10));
    }
  }
  for (int i = 300; i >= 0; --i) former.arrived(kNow - i * microseconds(10));
  EXPECT_EQ(former.decide(queue(1, {}), kNow).take, 1U);
}

TEST(BatchFormer, LearnedTakesOneByOneWhatHardlyGainsByCompanyWhileThereIsTime) {
  // Two together take 1.1 ms, one by one 0.6 and 1.2.
  BatchFormer quiet = experienced(microseconds(100), microseconds(500), microseconds(1500));
  EXPECT_EQ(quiet.decide(queue(3, {}), kNow).take, 1U);
  BatchFormer busy = experienced(microseconds(100), microseconds(500), microseconds(700));
  EXPECT_GT(busy.decide(queue(3, {}), kNow).take, 1U);
  // More wait than a batch holds, however seldom they came before.
  EXPECT_GT(quiet.decide(queue(40, {}), kNow).take, 1U);
  // Where the batch costs more than its members everybody ends earlier together.
  BatchFormer cheap = experienced(milliseconds(5), microseconds(50), milliseconds(20));
  EXPECT_EQ(cheap.decide(queue(3, {}), kNow).take, 3U);
}

TEST(BatchFormer, LeavesOutCompanyThatWouldMakeTheMostUrgentLate) {
  BatchFormer former = experienced(milliseconds(1), milliseconds(1), milliseconds(1));
  // 16 take 17 ms, 8 take 9, 4 take 5.
  EXPECT_LE(former.decide(queue(16, {}, kNow + milliseconds(6)), kNow).take, 5U);
  EXPECT_GE(former.decide(queue(16, {}, kNow + milliseconds(6)), kNow).take, 1U);
}

/// What `fixed` and `levels` promise, said once more and plainly.
TEST(BatchFormer, AgreesWithASimpleModel) {
  std::mt19937_64 random(5);
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  for (int trial = 0; trial < 20000; ++trial) {
    BatchOptions options = in_mode(draw(0, 1) == 0 ? BatchMode::kFixed : BatchMode::kByLoad);
    options.max_batch_size = static_cast<std::size_t>(draw(1, 64));
    options.preferred_batch_size =
        static_cast<std::size_t>(draw(1, static_cast<int>(options.max_batch_size)));
    options.timeout = milliseconds(draw(0, 20));
    BatchFormer former(options);
    const auto waiting = static_cast<std::size_t>(draw(1, 120));
    const Duration age = milliseconds(draw(0, 120));
    std::optional<TimePoint> deadline;
    if (draw(0, 1) == 0) deadline = kNow + milliseconds(draw(1, 60));

    std::size_t full = options.preferred_batch_size;
    std::size_t largest = options.max_batch_size;
    Duration window = options.timeout;
    if (options.mode == BatchMode::kByLoad) {
      full = waiting < 10 ? 10 : waiting < 50 ? 50 : 100;
      full = largest = std::min(full, options.max_batch_size);
      window = milliseconds(waiting < 10 ? 100 : waiting < 50 ? 50 : 10);
    }
    TimePoint until = kNow - age + window;
    former.ran(1, Duration(0));
    if (deadline) until = std::min(until, *deadline);

    const BatchDecision decision = former.decide(queue(waiting, age, deadline), kNow);
    if (waiting >= full || until <= kNow) {
      EXPECT_EQ(decision.take, std::min(waiting, largest));
      EXPECT_EQ(decision.look_again, std::nullopt);
    } else {
      EXPECT_EQ(decision.take, 0U);
      ASSERT_TRUE(decision.look_again);
      EXPECT_NEAR(std::chrono::duration<double>(*decision.look_again - until).count(), 0, 1e-6);
    }
  }
}

}  // namespace
}  // namespace weir::schedule
