// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/release_rate.h"

#include <gtest/gtest.h>

namespace weir::admit {
namespace {

using std::chrono::hours;
using std::chrono::seconds;

constexpr TimePoint kStart{hours(1)};

TEST(ReleaseRate, IsAFloorUntilSomethingIsKnown) {
  ReleaseRate rate;
  EXPECT_EQ(rate.time_for(1'000'000), seconds(1));
  rate.update(5, kStart);
  EXPECT_EQ(rate.time_for(1'000'000), seconds(1));
}

TEST(ReleaseRate, IsWhatCameBackPerSecond) {
  ReleaseRate rate;
  rate.update(100, kStart);
  rate.update(120, kStart + seconds(2));
  EXPECT_EQ(rate.time_for(1), seconds(1));
  EXPECT_EQ(rate.time_for(10), seconds(1));
  EXPECT_EQ(rate.time_for(11), seconds(2));
  EXPECT_EQ(rate.time_for(10'000), ReleaseRate::kMost);
}

TEST(ReleaseRate, FollowsAChange) {
  ReleaseRate rate;
  rate.update(0, kStart);
  rate.update(10, kStart + seconds(1));
  std::uint64_t released = 10;
  for (int i = 2; i < 40; ++i) rate.update(released += 2, kStart + seconds(i));
  EXPECT_EQ(rate.time_for(20), seconds(10));
}

TEST(ReleaseRate, WhenNothingComesBackItIsTheLongest) {
  ReleaseRate rate;
  rate.update(7, kStart);
  rate.update(7, kStart + seconds(1));
  EXPECT_EQ(rate.time_for(1), ReleaseRate::kMost);
  rate.update(7, kStart + seconds(1));  // no time has passed: no rate
  EXPECT_EQ(rate.time_for(1), ReleaseRate::kMost);
}

}  // namespace
}  // namespace weir::admit
