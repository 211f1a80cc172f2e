// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/backoff.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

namespace weir::upstream {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

TEST(Backoff, BoundDoublesWithEachFailure) {
  EXPECT_EQ(backoff_bound(milliseconds(25), 1), milliseconds(25));
  EXPECT_EQ(backoff_bound(milliseconds(25), 2), milliseconds(50));
  EXPECT_EQ(backoff_bound(milliseconds(25), 3), milliseconds(100));
  EXPECT_EQ(backoff_bound(milliseconds(60'000), 1000), hours(1));
  EXPECT_EQ(backoff_bound(hours(2), 1), hours(1));
}

TEST(Backoff, JitterIsFull) {
  Backoff backoff(7);
  const Duration bound = backoff_bound(milliseconds(100), 2);
  Duration least = bound;
  Duration most{};
  Duration sum{};
  constexpr int kDraws = 10'000;
  for (int i = 0; i < kDraws; ++i) {
    const Duration wait = backoff.draw(milliseconds(100), 2);
    least = std::min(least, wait);
    most = std::max(most, wait);
    sum += wait;
  }
  EXPECT_GE(least, Duration::zero());
  EXPECT_LE(most, bound);
  // Uniform over the whole range: the ends are reached, and the mean is the middle.
  EXPECT_LT(least, bound / 100);
  EXPECT_GT(most, bound - bound / 100);
  EXPECT_NEAR(static_cast<double>((sum / kDraws).count()), static_cast<double>(bound.count()) / 2,
              static_cast<double>(bound.count()) * 0.01);
}

TEST(Backoff, SeedsDrawDifferently) {
  Backoff one(1);
  Backoff other(2);
  EXPECT_NE(one.draw(milliseconds(1000), 1), other.draw(milliseconds(1000), 1));
}

}  // namespace
}  // namespace weir::upstream
