// SPDX-License-Identifier: Apache-2.0
//
// The bound of tokens that follows from what batches take; the machine is a function.
#include "agent/model/embedding_budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <random>

namespace weir::model {
namespace {

/// What a batch of so many tokens takes, in microseconds.
using Machine = std::function<double(double tokens)>;

/// Batches as full as the bound lets them be, of texts of about `text` tokens; how often each bound
/// was in force over the last `counted` of them.
std::map<std::size_t, int> run(EmbeddingBudget& budget, const Machine& machine, int batches,
                               int counted, std::size_t text = 20) {
  std::minstd_rand chance(7);
  std::map<std::size_t, int> bounds;
  for (int i = 0; i < batches; ++i) {
    const std::size_t bound = budget.tokens();
    if (i >= batches - counted) ++bounds[bound];
    std::size_t tokens = 0;
    while (true) {
      const std::size_t more = text / 2 + chance() % (text + 1);
      if (tokens > 0 && tokens + more > bound) break;
      tokens += more;
    }
    budget.made(/*is_full=*/true);
    const double noise = 1 + 0.02 * (static_cast<double>(chance() % 100) / 50 - 1);
    budget.ran(tokens,
               std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::micro>(
                   machine(static_cast<double>(tokens)) * noise)));
  }
  return bounds;
}

std::size_t most_often(const std::map<std::size_t, int>& bounds) {
  return std::max_element(bounds.begin(), bounds.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

double rate(const Machine& machine, std::size_t tokens) {
  return static_cast<double>(tokens) / machine(static_cast<double>(tokens));
}

TEST(EmbeddingBudget, BeginsSmallAndNeverExceedsWhatIsAllowed) {
  EXPECT_EQ(EmbeddingBudget(1024).tokens(), 128U);
  EXPECT_EQ(EmbeddingBudget(100).tokens(), 100U);
  EmbeddingBudget budget(100);
  for (const auto& [bound, times] : run(
           budget, [](double n) { return 10'000 + n; }, 2000, 2000)) {
    EXPECT_LE(bound, 100U);
    EXPECT_GE(bound, 16U);
  }
}

TEST(EmbeddingBudget, GrowsWhileTheFixedPartOfABatchCounts) {
  EmbeddingBudget budget(1024);
  const Machine machine = [](double n) { return 20'000 + 100 * n; };
  const std::size_t bound = most_often(run(budget, machine, 3000, 500));
  EXPECT_GE(rate(machine, bound), 0.94 * rate(machine, 1024));
}

TEST(EmbeddingBudget, StaysWhereMoreTokensAreSlower) {
  EmbeddingBudget budget(1024);
  // Attention over all: twice as slow with 1024 tokens as with the best number, about 128.
  const Machine machine = [](double n) { return 1500 + 80 * n + 0.09 * n * n; };
  const std::size_t bound = most_often(run(budget, machine, 3000, 500));
  EXPECT_GE(bound, 64U);
  EXPECT_LE(bound, 192U);
  EXPECT_GE(rate(machine, bound), 0.95 * rate(machine, 128));
}

TEST(EmbeddingBudget, TakesFewTokensWhereMoreGainNothing) {
  EmbeddingBudget budget(512);
  const Machine machine = [](double n) { return 100 + 100 * n; };
  EXPECT_LE(most_often(run(budget, machine, 3000, 500)), 64U);
}

TEST(EmbeddingBudget, FollowsAMachineThatHasChanged) {
  EmbeddingBudget budget(1024);
  const Machine small = [](double n) { return 200 + 80 * n + 0.2 * n * n; };
  const Machine large = [](double n) { return 60'000 + 300 * n; };
  EXPECT_LE(most_often(run(budget, small, 2000, 300)), 128U);
  EXPECT_GE(most_often(run(budget, large, 3000, 300)), 512U);
  EXPECT_LE(most_often(run(budget, small, 3000, 300)), 128U);
}

TEST(EmbeddingBudget, TriesOtherBoundsSeldom) {
  EmbeddingBudget budget(1024);
  const Machine machine = [](double n) { return 1500 + 80 * n + 0.09 * n * n; };
  run(budget, machine, 2000, 1);
  const auto bounds = run(budget, machine, 640, 640);
  int far = 0;
  for (const auto& [bound, times] : bounds) {
    if (rate(machine, bound) < 0.93 * rate(machine, 128)) far += times;
  }
  EXPECT_GT(bounds.size(), 2U);
  EXPECT_LE(far, 20);
}

TEST(EmbeddingBudget, TrialEndsWithTheBatchItWasOf) {
  EmbeddingBudget budget(1024);
  for (int i = 0; i < 31; ++i) budget.made(true);
  EXPECT_EQ(budget.tokens(), 128U);
  budget.made(true);
  EXPECT_NE(budget.tokens(), 128U);
  EXPECT_EQ(budget.learned(), 128U);
  budget.made(false);
  EXPECT_EQ(budget.tokens(), 128U);
}

TEST(EmbeddingBudget, LongTextThatIsABatchOfItsOwnTeachesNothing) {
  EmbeddingBudget budget(128);
  for (int i = 0; i < 100; ++i) {
    budget.ran(500, std::chrono::seconds(1));
    budget.ran(0, std::chrono::seconds(1));
  }
  EXPECT_EQ(budget.tokens(), 128U);
}

TEST(EmbeddingBudget, OneLongTextInEachBatchIsNoReasonToTakeTwo) {
  EmbeddingBudget budget(512);
  const Machine machine = [](double n) { return 300 + 100 * n + 0.02 * n * n; };
  // Texts of 100 to 200 tokens.
  const std::size_t bound = most_often(run(budget, machine, 3000, 500, 133));
  EXPECT_LE(bound, 208U);
}

}  // namespace
}  // namespace weir::model
