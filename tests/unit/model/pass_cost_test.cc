// SPDX-License-Identifier: Apache-2.0
#include "agent/model/pass_cost.h"

#include <gtest/gtest.h>

namespace weir::model {
namespace {

TEST(PassCost, WhatWasMeasuredIsKnownAndTheRestLiesBetween) {
  PassCost cost;
  EXPECT_FALSE(cost.measured(1));
  EXPECT_DOUBLE_EQ(cost.hoped(1), 0);
  cost.learn(9, 700);
  EXPECT_DOUBLE_EQ(cost.hoped(1), 700);  // no more than what is larger
  cost.learn(1, 100);
  cost.learn(9, 500);
  ASSERT_TRUE(cost.measured(9));
  EXPECT_DOUBLE_EQ(cost.measured(9)->micros, 500);
  EXPECT_FALSE(cost.measured(5));
  EXPECT_DOUBLE_EQ(cost.hoped(1), 100);
  EXPECT_DOUBLE_EQ(cost.hoped(5), 300);
  // Beyond all that was measured: half of what the tokens have cost so far.
  EXPECT_DOUBLE_EQ(cost.hoped(18), 500 * 1.5);
}

TEST(PassCost, MoreTokensAreNeverHopedToCostLess) {
  PassCost cost;
  cost.learn(1, 100);
  cost.learn(8, 50);
  EXPECT_DOUBLE_EQ(cost.hoped(4), 100);
}

TEST(PassCost, OnePassThatWasHeldUpIsForgottenByThoseAfterIt) {
  PassCost cost;
  cost.learn(4, 10'000);
  EXPECT_FALSE(cost.measured(4)->sure);
  cost.learn(4, 100);
  cost.learn(4, 120);
  EXPECT_TRUE(cost.measured(4)->sure);
  EXPECT_DOUBLE_EQ(cost.measured(4)->micros, 100);
  cost.learn(4, 1e9);
  EXPECT_DOUBLE_EQ(cost.measured(4)->micros, 120);
  for (int i = 0; i < 100; ++i) cost.learn(4, 500);  // it has become slower
  EXPECT_NEAR(cost.measured(4)->micros, 500, 1);
}

TEST(PassCost, WhatIsOldIsHopedToBeCheaperAndNoLessThanHalf) {
  PassCost cost;
  for (int i = 0; i < 3; ++i) cost.learn(1, 100);
  for (int i = 0; i < 2048; ++i) cost.tick();
  EXPECT_DOUBLE_EQ(cost.measured(1)->micros, 100);
  EXPECT_EQ(cost.measured(1)->age, 2048U);
  EXPECT_DOUBLE_EQ(cost.hoped(1), 75);
  for (int i = 0; i < 100'000; ++i) cost.tick();
  EXPECT_DOUBLE_EQ(cost.hoped(1), 50);
}

TEST(PassCost, WhatWasMeasuredOnceIsForgottenSooner) {
  PassCost cost;
  cost.learn(1, 100);
  for (int i = 0; i < 128; ++i) cost.tick();
  EXPECT_DOUBLE_EQ(cost.hoped(1), 75);
}

TEST(PassCost, IgnoresWhatIsLargerThanItsTable) {
  PassCost cost;
  cost.learn(2, 100);
  cost.learn(0, 5);
  cost.learn(PassCost::kMostTokens + 1, 5);
  EXPECT_FALSE(cost.measured(0));
  EXPECT_FALSE(cost.measured(PassCost::kMostTokens + 1));
  EXPECT_GT(cost.hoped(PassCost::kMostTokens + 1), 100);
}

}  // namespace
}  // namespace weir::model
