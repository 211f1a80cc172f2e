// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/composite.h"

#include <gtest/gtest.h>

#include <numeric>

namespace weir::balance {
namespace {

CompositeInput input(std::optional<double> ttfb_ms, std::uint32_t active = 0, double base = 1,
                     std::optional<double> cpu = {}) {
  return {base, ttfb_ms, cpu, active};
}

TEST(CompositeScore, IsTheFormula) {
  EXPECT_DOUBLE_EQ(composite_score(input(0)), 100);
  EXPECT_DOUBLE_EQ(composite_score(input(4, 1)), 10);
  EXPECT_DOUBLE_EQ(composite_score(input(9, 4, 1, 50)), 1);
  EXPECT_DOUBLE_EQ(composite_score(input(std::nullopt, 3)), 25);
}

TEST(CompositeScore, DoesNotVanishInIntegers) {
  EXPECT_NEAR(composite_score(input(200, 10, 1, 50)), 0.02261, 0.00001);
}

TEST(CompositeScore, AFullCpuLeavesATenth) {
  EXPECT_DOUBLE_EQ(composite_score(input(0, 0, 1, 100)), 10);
  EXPECT_DOUBLE_EQ(composite_score(input(0, 0, 1, 99)), 10);
}

TEST(CompositeWeights, AreTheScoresWithMeanOne) {
  // Scores 20, 10, 10, of a mean of 40/3.
  const auto weights = composite_weights(std::vector{input(4), input(9), input(4, 1)});
  ASSERT_EQ(weights.size(), 3U);
  EXPECT_DOUBLE_EQ(weights[0], 1.5);
  EXPECT_DOUBLE_EQ(weights[1], 0.75);
  EXPECT_DOUBLE_EQ(weights[2], 0.75);
}

TEST(CompositeWeights, FollowTheBaseWeights) {
  const auto weights = composite_weights(std::vector{input(4, 0, 3), input(4, 0, 1)});
  EXPECT_DOUBLE_EQ(weights[0], 1.5);
  EXPECT_DOUBLE_EQ(weights[1], 0.5);
}

TEST(CompositeWeights, FloorIsAHundredthOfTheBest) {
  // 100 against 100/100001: without a floor the second would never be measured again.
  const auto weights = composite_weights(std::vector{input(0), input(100'000)});
  EXPECT_DOUBLE_EQ(weights[1] / weights[0], 0.01);
  EXPECT_DOUBLE_EQ(weights[0] + weights[1], 2);
}

TEST(CompositeWeights, FloorLeavesTheBaseWeightAlone) {
  const auto weights = composite_weights(std::vector{input(0, 0, 1000), input(0, 0, 0.01)});
  EXPECT_NEAR(weights[1] / weights[0], 1e-5, 1e-12);
  EXPECT_GT(weights[1], 0);
}

TEST(CompositeWeights, WhoWasNeverMeasuredGetsTheMedian) {
  const auto odd =
      composite_weights(std::vector{input(1), input(9), input(99), input(std::nullopt)});
  EXPECT_DOUBLE_EQ(odd[3], odd[1]);
  const auto even = composite_weights(std::vector{input(4), input(14), input(std::nullopt)});
  // 100/(9 + 1) between 100/5 and 100/15.
  EXPECT_DOUBLE_EQ(even[2] / even[0], 0.5);
}

TEST(CompositeWeights, NobodyMeasuredMeansEqual) {
  const auto weights =
      composite_weights(std::vector{input(std::nullopt), input(std::nullopt), input(std::nullopt)});
  for (const double weight : weights) EXPECT_DOUBLE_EQ(weight, 1);
}

TEST(CompositeWeights, UnknownCpuIsNeutral) {
  const auto weights =
      composite_weights(std::vector{input(4, 0, 1, std::nullopt), input(4, 0, 1, 0.0)});
  EXPECT_DOUBLE_EQ(weights[0], weights[1]);
}

TEST(CompositeWeights, EveryCpuFullStillAddsUp) {
  const auto weights = composite_weights(std::vector{input(4, 0, 1, 100), input(4, 0, 1, 100)});
  EXPECT_DOUBLE_EQ(weights[0], 1);
  EXPECT_DOUBLE_EQ(weights[1], 1);
}

TEST(CompositeWeights, NoBackendsNoWeights) { EXPECT_TRUE(composite_weights({}).empty()); }

}  // namespace
}  // namespace weir::balance
