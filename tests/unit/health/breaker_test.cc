// SPDX-License-Identifier: Apache-2.0
#include "agent/health/breaker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/fixtures/fake_clock.h"

namespace weir::health {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const Uniform kNoJitter = [] { return 0.0; };

class BreakerTest : public testing::Test {
 protected:
  std::optional<Breaker::Change> look() { return breaker.observe(counts, clock.now(), kNoJitter); }
  void fail(std::uint32_t times) {
    counts.failures += times;
    counts.consecutive_failures += times;
  }
  void succeed() {
    ++counts.established;
    counts.consecutive_failures = 0;
  }
  /// Fails the backend until it is open, and waits until it is half-open.
  void reach_half_open() {
    fail(3);
    ASSERT_TRUE(look());
    clock.advance(seconds(5));
    ASSERT_TRUE(look());
    ASSERT_EQ(breaker.state(), BreakerState::kHalfOpen);
  }

  FakeClock clock;
  ConnectCounts counts;
  Breaker breaker{BreakerOptions{}};
};

TEST_F(BreakerTest, OpensAtTheThirdFailureInARow) {
  fail(2);
  EXPECT_FALSE(look());
  fail(1);
  const auto change = look();
  ASSERT_TRUE(change);
  EXPECT_EQ(change->from, BreakerState::kClosed);
  EXPECT_EQ(change->to, BreakerState::kOpen);
  EXPECT_EQ(change->consecutive_failures, 3U);
  EXPECT_EQ(change->open_for, seconds(5));
}

TEST_F(BreakerTest, ASuccessInBetweenKeepsItClosed) {
  for (int i = 0; i < 10; ++i) {
    fail(2);
    EXPECT_FALSE(look());
    succeed();
    EXPECT_FALSE(look());
  }
}

TEST_F(BreakerTest, StaysOpenUntilItsTimeIsOver) {
  fail(3);
  ASSERT_TRUE(look());
  clock.advance(seconds(5) - Duration(1));
  EXPECT_FALSE(look());
  clock.advance(Duration(1));
  const auto change = look();
  ASSERT_TRUE(change);
  EXPECT_EQ(change->to, BreakerState::kHalfOpen);
}

TEST_F(BreakerTest, HalfOpenWaitsForEvidence) {
  reach_half_open();
  clock.advance(std::chrono::hours(1));
  EXPECT_FALSE(look());
  EXPECT_EQ(breaker.state(), BreakerState::kHalfOpen);
}

TEST_F(BreakerTest, ASuccessCloses) {
  reach_half_open();
  succeed();
  const auto change = look();
  ASSERT_TRUE(change);
  EXPECT_EQ(change->to, BreakerState::kClosed);
}

TEST_F(BreakerTest, OneFailureReopensForTwiceTheTimeUpToTheLimit) {
  reach_half_open();
  for (const auto expected : {seconds(10), seconds(20), seconds(40), seconds(60), seconds(60)}) {
    fail(1);
    const auto reopened = look();
    ASSERT_TRUE(reopened);
    EXPECT_EQ(reopened->from, BreakerState::kHalfOpen);
    EXPECT_EQ(reopened->open_for, expected);
    clock.advance(expected);
    ASSERT_TRUE(look());
  }
}

TEST_F(BreakerTest, AFailureAndASuccessInOneReadingReopen) {
  reach_half_open();
  fail(1);
  succeed();
  const auto change = look();
  ASSERT_TRUE(change);
  EXPECT_EQ(change->to, BreakerState::kOpen);
}

TEST_F(BreakerTest, ClosingForgetsTheRelapses) {
  reach_half_open();
  fail(1);
  ASSERT_EQ(look()->open_for, seconds(10));
  clock.advance(seconds(10));
  ASSERT_TRUE(look());
  succeed();
  ASSERT_EQ(look()->to, BreakerState::kClosed);
  fail(3);
  EXPECT_EQ(look()->open_for, seconds(5));
}

TEST_F(BreakerTest, JitterIsAddedToTheOpenTime) {
  fail(3);
  const auto change = breaker.observe(counts, clock.now(), [] { return 0.5; });
  ASSERT_TRUE(change);
  EXPECT_EQ(change->open_for, milliseconds(5500));
}

TEST_F(BreakerTest, CountsThatWentBackAreNoEvidence) {
  counts.established = 100;
  counts.failures = 100;
  reach_half_open();
  counts = {};
  EXPECT_FALSE(look());
  succeed();
  EXPECT_EQ(look()->to, BreakerState::kClosed);
}

/// The state machine once more, told in plain terms: integers of seconds, one event per step.
struct Model {
  BreakerState state = BreakerState::kClosed;
  int run = 0;        ///< failures in a row
  int open_left = 0;  ///< seconds
  int next_open = 5;

  void step(char event) {
    if (event == 'f') ++run;
    if (event == 's') run = 0;
    if (state == BreakerState::kOpen) {
      if (open_left <= 0) state = BreakerState::kHalfOpen;
    } else if (state == BreakerState::kHalfOpen) {
      if (event == 'f') {
        next_open = std::min(60, 2 * next_open);
        state = BreakerState::kOpen;
        open_left = next_open;
      } else if (event == 's') {
        next_open = 5;
        state = BreakerState::kClosed;
      }
    } else if (run >= 3) {
      state = BreakerState::kOpen;
      open_left = next_open;
    }
    --open_left;  // the second that passes before the next step
  }
};

TEST(BreakerProperty, AgreesWithTheModelOnRandomHistories) {
  std::mt19937 random(7);
  int visits[3] = {};
  for (int history = 0; history < 200; ++history) {
    FakeClock clock;
    Breaker breaker{BreakerOptions{}};
    Model model;
    ConnectCounts counts;
    const std::discrete_distribution<int>::param_type mix({6, 3, 1.0 + history % 5});
    for (int step = 0; step < 500; ++step) {
      const char event = "f.s"[std::discrete_distribution<int>()(random, mix)];
      if (event == 'f') {
        ++counts.failures;
        ++counts.consecutive_failures;
      } else if (event == 's') {
        ++counts.established;
        counts.consecutive_failures = 0;
      }
      const auto before = breaker.state();
      const auto change = breaker.observe(counts, clock.now(), kNoJitter);
      model.step(event);
      ASSERT_EQ(breaker.state(), model.state) << "history " << history << " step " << step;
      ASSERT_EQ(change.has_value(), before != breaker.state());
      ++visits[static_cast<int>(breaker.state())];
      clock.advance(seconds(1));
    }
  }
  for (const int visited : visits) EXPECT_GT(visited, 1000);
}

}  // namespace
}  // namespace weir::health
