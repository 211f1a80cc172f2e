// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/service_rate.h"

#include <gtest/gtest.h>

#include "tests/fixtures/fake_clock.h"

namespace weir::schedule {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

double seconds_of(std::optional<Duration> duration) {
  return duration ? std::chrono::duration<double>(*duration).count() : -1;
}

TEST(ServiceRate, PredictsNothingBeforeTheFirstCompletion) {
  FakeClock clock;
  ServiceRate rate(clock);
  rate.set_busy(true);
  clock.advance(seconds(9));
  EXPECT_EQ(rate.requests_per_second(), std::nullopt);
  EXPECT_EQ(rate.tokens_per_second(), std::nullopt);
  EXPECT_EQ(rate.drain_time({10, 1000}), std::nullopt);
  EXPECT_EQ(rate.service_time(10), std::nullopt);
}

TEST(ServiceRate, MeasuresAConstantRateWithoutStartBias) {
  FakeClock clock;
  ServiceRate rate(clock);
  rate.set_busy(true);
  for (int i = 0; i < 8; ++i) {
    clock.advance(milliseconds(250));
    rate.completed(50, milliseconds(2000));
  }
  EXPECT_NEAR(*rate.requests_per_second(), 4.0, 0.2);
  EXPECT_NEAR(*rate.tokens_per_second(), 200.0, 10.0);
  EXPECT_NEAR(seconds_of(rate.drain_time({1, 1000})), 5.0, 0.25);
  EXPECT_EQ(rate.drain_time({0, 0}), Duration::zero());
}

TEST(ServiceRate, DrainsByRequestsWhereNoTokensAreKnown) {
  FakeClock clock;
  ServiceRate rate(clock);
  rate.set_busy(true);
  for (int i = 0; i < 10; ++i) {
    clock.advance(seconds(1));
    rate.completed(0, seconds(1));
  }
  EXPECT_NEAR(seconds_of(rate.drain_time({20, 0})), 20.0, 0.5);
  EXPECT_NEAR(seconds_of(rate.service_time(0)), 1.0, 1e-6);
}

TEST(ServiceRate, ServiceTimeIsTheAverageOrLessForWhatIsSmall) {
  FakeClock clock;
  ServiceRate rate(clock);
  rate.set_busy(true);
  rate.completed(100, seconds(2));
  rate.completed(300, seconds(6));
  EXPECT_NEAR(seconds_of(rate.service_time(100)), 2.0, 1e-6);
  EXPECT_NEAR(seconds_of(rate.service_time(50)), 1.0, 1e-6);
  // Most requests end long before the most that they allow: no more than the average.
  EXPECT_NEAR(seconds_of(rate.service_time(100'000)), 4.0, 1e-6);
}

TEST(ServiceRate, IdleTimeDoesNotCount) {
  FakeClock clock;
  ServiceRate rate(clock);
  rate.set_busy(true);
  for (int i = 0; i < 10; ++i) {
    clock.advance(seconds(1));
    rate.completed(10, seconds(1));
  }
  rate.set_busy(false);
  const double before = *rate.requests_per_second();
  clock.advance(std::chrono::hours(5));
  EXPECT_DOUBLE_EQ(*rate.requests_per_second(), before);
  rate.completed(10, seconds(1));  // nor what ends meanwhile
  rate.set_busy(true);
  EXPECT_DOUBLE_EQ(*rate.requests_per_second(), before);
}

TEST(ServiceRate, FollowsASlowdown) {
  FakeClock clock;
  ServiceRate rate(clock, seconds(10));
  rate.set_busy(true);
  for (int i = 0; i < 100; ++i) {
    clock.advance(milliseconds(100));
    rate.completed(10, milliseconds(100));
  }
  EXPECT_NEAR(*rate.requests_per_second(), 10.0, 0.5);
  // Nothing completes for three time constants: a twentieth of the rate is left.
  clock.advance(seconds(30));
  EXPECT_LT(*rate.requests_per_second(), 0.5);
}

TEST(RetryAfter, IsBetweenOneSecondAndAMinute) {
  EXPECT_EQ(retry_after(std::nullopt), seconds(5));
  EXPECT_EQ(retry_after(Duration::zero()), seconds(1));
  EXPECT_EQ(retry_after(milliseconds(9001)), seconds(10));
  EXPECT_EQ(retry_after(std::chrono::hours(3)), seconds(60));
}

}  // namespace
}  // namespace weir::schedule
