// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/retry_budget.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "tests/fixtures/fake_clock.h"

namespace weir::upstream {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

int withdraw_all(RetryBudget& budget) {
  int taken = 0;
  while (taken < 1'000'000 && budget.withdraw()) ++taken;
  return taken;
}

TEST(RetryBudget, IsAShareOfTheRequestsAndTheFloor) {
  FakeClock clock;
  RetryBudget budget(20, clock);
  EXPECT_EQ(withdraw_all(budget), 10);  // the floor: one a second over ten seconds
  for (int i = 0; i < 4; ++i) budget.deposit();
  EXPECT_EQ(withdraw_all(budget), 0);
  budget.deposit();
  EXPECT_EQ(withdraw_all(budget), 1);
  for (int i = 0; i < 1000; ++i) budget.deposit();
  EXPECT_EQ(withdraw_all(budget), 200);
}

TEST(RetryBudget, FloorComesBackWithTime) {
  FakeClock clock;
  RetryBudget budget(20, clock);
  EXPECT_EQ(withdraw_all(budget), 10);
  clock.advance(milliseconds(900));
  EXPECT_FALSE(budget.withdraw());
  clock.advance(milliseconds(200));  // 10 * (1 - exp(-0.11)) > 1
  EXPECT_TRUE(budget.withdraw());
  EXPECT_FALSE(budget.withdraw());
}

TEST(RetryBudget, OldRequestsPayForNothing) {
  FakeClock clock;
  RetryBudget budget(20, clock);
  for (int i = 0; i < 100'000; ++i) budget.deposit();
  clock.advance(seconds(600));
  EXPECT_EQ(withdraw_all(budget), 10);
}

TEST(RetryBudget, NoneMeansNone) {
  FakeClock clock;
  RetryBudget budget(0, clock);
  for (int i = 0; i < 100; ++i) budget.deposit();
  EXPECT_FALSE(budget.withdraw());
}

TEST(RetryBudget, AllMeansOneForEachRequest) {
  FakeClock clock;
  RetryBudget budget(100, clock);
  for (int i = 0; i < 50; ++i) budget.deposit();
  EXPECT_EQ(withdraw_all(budget), 60);
}

// The bound of the header, whatever comes when.
TEST(RetryBudget, NeverGivesMoreThanItPromises) {
  std::mt19937 random(3);
  for (const double percent : {1.0, 20.0, 75.0}) {
    FakeClock clock;
    RetryBudget budget(percent, clock);
    const TimePoint start = clock.now();
    double requests = 0;
    double retries = 0;
    for (int step = 0; step < 50'000; ++step) {
      // Bursts and gaps, and everybody always wants to retry.
      if (random() % 100 == 0) clock.advance(milliseconds(random() % 5000));
      if (random() % 3 != 0) {
        budget.deposit();
        ++requests;
      }
      if (budget.withdraw()) ++retries;
      const double passed = std::chrono::duration<double>(clock.now() - start).count();
      ASSERT_LE(retries, requests * percent / 100 + passed + 10 + 1e-3) << step;
    }
    EXPECT_GT(retries, requests * percent / 100 * 0.9);
  }
}

}  // namespace
}  // namespace weir::upstream
