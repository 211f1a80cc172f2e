// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/drift.h"

#include <gtest/gtest.h>

namespace weir::kernel {
namespace {

/// One census whose quick recount and careful recount show the same.
void census(DriftRule& rule, const DriftBounds& each, std::int64_t expected) {
  rule.glance(each);
  if (rule.suspects()) rule.examine(each);
  EXPECT_EQ(rule.conclude(), expected);
}

TEST(DriftBounds, OfAQuietGaugeAreItsError) {
  const DriftBounds right = bounds({7, 7, 7, 0});
  EXPECT_TRUE(right.decided());
  EXPECT_EQ(right.certain(), 0);
  EXPECT_EQ(bounds({9, 7, 9, 0}).certain(), 2);
  EXPECT_EQ(bounds({5, 7, 5, 0}).certain(), -2);
}

TEST(DriftBounds, WhatCameAndWentMayOrMayNotHaveBeenCounted) {
  // 10 before, 3 came, 4 went: all between 6 and 13 may be counted.
  for (std::uint32_t counted = 6; counted <= 13; ++counted) {
    EXPECT_EQ(bounds({10, counted, 9, 3}).certain(), 0) << counted;
  }
  EXPECT_EQ(bounds({10, 5, 9, 3}).certain(), 1);
  EXPECT_EQ(bounds({10, 14, 9, 3}).certain(), -1);
  EXPECT_FALSE(bounds({10, 10, 9, 3}).decided());
}

TEST(DriftBounds, ThatCrossAreNoErrorYet) {
  // The gauge went wrong by one during this recount.
  EXPECT_EQ(bounds({7, 7, 8, 0}).certain(), 0);
}

TEST(DriftRule, CorrectsAnErrorThatTwoCensusesShow) {
  DriftRule rule;
  census(rule, {3, 3}, 0);
  EXPECT_EQ(rule.drift(), 3);
  census(rule, {3, 3}, -3);
  EXPECT_EQ(rule.drift(), 3);
  census(rule, {0, 0}, 0);
  EXPECT_EQ(rule.drift(), 0);
}

TEST(DriftRule, CorrectsAGaugeThatIsTooLow) {
  DriftRule rule;
  census(rule, {-2, -2}, 0);
  census(rule, {-2, -2}, 2);
}

TEST(DriftRule, CorrectsTheLeastThatWasProven) {
  DriftRule rule;
  census(rule, {2, 5}, 0);
  census(rule, {4, 6}, -2);
  // Two more have shown themselves once so far.
  census(rule, {2, 3}, -2);
  census(rule, {0, 1}, 0);
}

TEST(DriftRule, ForgetsAnErrorThatIsGone) {
  DriftRule rule;
  census(rule, {1, 1}, 0);
  census(rule, {0, 0}, 0);
  census(rule, {1, 1}, 0);
  census(rule, {-1, -1}, 0);
  census(rule, {1, 1}, 0);
}

TEST(DriftRule, RemembersAnErrorOverACensusThatTellsNothing) {
  DriftRule rule;
  census(rule, {1, 1}, 0);
  census(rule, {-4, 9}, 0);
  EXPECT_EQ(rule.drift(), 0);
  census(rule, {1, 2}, -1);
}

TEST(DriftRule, AQuickRecountProvesNothing) {
  DriftRule rule;
  for (int i = 0; i < 3; ++i) {
    rule.glance({1, 1});
    EXPECT_TRUE(rule.suspects());
    rule.examine({-2, 3});
    EXPECT_TRUE(rule.suspects()) << "another careful recount may tell more";
    EXPECT_EQ(rule.conclude(), 0);
    EXPECT_EQ(rule.drift(), 0);
  }
}

TEST(DriftRule, CarefulRecountsAddUp) {
  DriftRule rule;
  rule.glance({3, 3});
  rule.examine({-1, 2});
  rule.examine({1, 4});
  EXPECT_FALSE(rule.suspects());
  EXPECT_EQ(rule.conclude(), 0);
  EXPECT_EQ(rule.drift(), 1);
}

TEST(DriftRule, SuspectsNothingThatIsRightOrUnsure) {
  DriftRule rule;
  rule.glance({0, 0});
  EXPECT_FALSE(rule.suspects());
  rule.glance({-3, 2});
  EXPECT_FALSE(rule.suspects());
  rule.glance({3, 2});
  EXPECT_TRUE(rule.suspects());
  rule.examine({0, 0});
  EXPECT_FALSE(rule.suspects());
}

}  // namespace
}  // namespace weir::kernel
