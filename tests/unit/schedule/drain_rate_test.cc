// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/drain_rate.h"

#include <gtest/gtest.h>

#include "tests/fixtures/fake_clock.h"

namespace weir::schedule {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(DrainRate, UnmeasuredSaysFiveSeconds) {
  FakeClock clock;
  const DrainRate rate(clock);
  EXPECT_EQ(rate.per_second(), std::nullopt);
  EXPECT_EQ(rate.retry_after(1000), seconds(5));
}

TEST(DrainRate, MeasuresAConstantRateWithoutStartBias) {
  FakeClock clock;
  DrainRate rate(clock);
  rate.set_busy(true);
  for (int i = 0; i < 8; ++i) {
    clock.advance(milliseconds(250));
    rate.completed();
  }
  ASSERT_TRUE(rate.per_second());
  EXPECT_NEAR(*rate.per_second(), 4.0, 0.2);
  EXPECT_EQ(rate.retry_after(0), seconds(1));
  EXPECT_EQ(rate.retry_after(2), seconds(1));
  EXPECT_EQ(rate.retry_after(38), seconds(10));
  EXPECT_EQ(rate.retry_after(100000), seconds(60));
}

TEST(DrainRate, IdleTimeDoesNotCount) {
  FakeClock clock;
  DrainRate rate(clock);
  rate.set_busy(true);
  for (int i = 0; i < 10; ++i) {
    clock.advance(seconds(1));
    rate.completed();
  }
  rate.set_busy(false);
  const double before = *rate.per_second();
  clock.advance(std::chrono::hours(5));
  EXPECT_DOUBLE_EQ(*rate.per_second(), before);
  rate.set_busy(true);
  EXPECT_DOUBLE_EQ(*rate.per_second(), before);
}

TEST(DrainRate, FollowsASlowdown) {
  FakeClock clock;
  DrainRate rate(clock, seconds(10));
  rate.set_busy(true);
  for (int i = 0; i < 100; ++i) {
    clock.advance(milliseconds(100));
    rate.completed();
  }
  EXPECT_NEAR(*rate.per_second(), 10.0, 0.5);
  // Nothing completes for three time constants: a twentieth of the rate is left.
  clock.advance(seconds(30));
  EXPECT_LT(*rate.per_second(), 0.5);
  EXPECT_EQ(rate.retry_after(50), seconds(60));
}

TEST(DrainRate, CompletionsWhileIdleAreNotCounted) {
  FakeClock clock;
  DrainRate rate(clock);
  rate.completed();
  clock.advance(seconds(1));
  EXPECT_EQ(rate.per_second(), std::nullopt);
}

}  // namespace
}  // namespace weir::schedule
