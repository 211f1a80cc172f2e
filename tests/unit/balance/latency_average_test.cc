// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/latency_average.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/fixtures/fake_clock.h"
#include "tests/fixtures/fake_maps.h"

namespace weir::balance {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class LatencyAverageTest : public testing::Test {
 protected:
  std::optional<double> look() {
    average.update(ttfb, failures, clock.now());
    return average.ms();
  }
  FakeClock clock;
  kernel::Histogram ttfb;
  std::uint64_t failures = 0;
  LatencyAverage average{seconds(10)};
};

TEST_F(LatencyAverageTest, IsUnknownWithoutSamples) { EXPECT_EQ(look(), std::nullopt); }

TEST_F(LatencyAverageTest, FirstSamplesEnterWhole) {
  add_samples(ttfb, milliseconds(10), 1);
  add_samples(ttfb, milliseconds(40), 2);
  EXPECT_DOUBLE_EQ(look().value(), 30);
}

TEST_F(LatencyAverageTest, NewSamplesEnterByTheTimeThatPassed) {
  add_samples(ttfb, milliseconds(10), 1000);
  look();
  clock.advance(seconds(1));
  add_samples(ttfb, milliseconds(110), 1);
  // How many samples there were before or are now does not matter.
  EXPECT_NEAR(look().value(), 10 + 100 * (1 - std::exp(-0.1)), 1e-9);
}

TEST_F(LatencyAverageTest, IsKeptWhileNothingIsMeasured) {
  add_samples(ttfb, milliseconds(10), 1);
  look();
  clock.advance(std::chrono::hours(1));
  EXPECT_DOUBLE_EQ(look().value(), 10);
  // After a silence of many tau, the new sample is all there is.
  add_samples(ttfb, milliseconds(50), 1);
  EXPECT_NEAR(look().value(), 50, 1e-6);
}

TEST_F(LatencyAverageTest, StartsAfreshWhenTheRecordDoes) {
  add_samples(ttfb, milliseconds(10), 100);
  look();
  clock.advance(seconds(1));
  ttfb = {};
  add_samples(ttfb, milliseconds(50), 3);
  EXPECT_DOUBLE_EQ(look().value(), 50);
}

TEST_F(LatencyAverageTest, AFailedConnectIsASampleOfFiveSeconds) {
  look();
  failures = 1;
  EXPECT_DOUBLE_EQ(look().value(), 5000) << "a backend that only fails is not unknown";
  clock.advance(std::chrono::hours(1));
  add_samples(ttfb, milliseconds(10), 998);
  failures += 2;
  EXPECT_NEAR(look().value(), (998 * 10 + 2 * 5000) / 1000.0, 1e-9);
  clock.advance(std::chrono::hours(1));
  add_samples(ttfb, milliseconds(10), 1);
  EXPECT_NEAR(look().value(), 10, 1e-9) << "each failure counts once";
}

TEST_F(LatencyAverageTest, FailuresBeforeTheFirstReadingAreHistory) {
  failures = 1000;
  add_samples(ttfb, milliseconds(10), 1);
  EXPECT_DOUBLE_EQ(look().value(), 10);
  EXPECT_DOUBLE_EQ(look().value(), 10);
}

TEST_F(LatencyAverageTest, FailuresOfARecordTakenIntoUseAnewAllCount) {
  failures = 1000;
  add_samples(ttfb, milliseconds(10), 1);
  look();
  failures = 1;
  EXPECT_DOUBLE_EQ(look().value(), (10 + 5000) / 2.0);
}

}  // namespace
}  // namespace weir::balance
