// SPDX-License-Identifier: Apache-2.0
//
// Which models go: held against every possible choice, on random tables.
#include "agent/model/eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <thread>

#include "agent/model/model_memory.h"

namespace weir::model {
namespace {

Evictable used_at(int second, std::uint64_t bytes) {
  return {bytes, TimePoint(std::chrono::seconds(second))};
}

using Indices = std::vector<std::size_t>;

TEST(Eviction, LeastRecentlyUsedGoFirst) {
  const std::vector<Evictable> models{used_at(3, 10), used_at(1, 10), used_at(2, 10)};
  EXPECT_EQ(choose_victims(models, 0), Indices{});
  EXPECT_EQ(choose_victims(models, 10), Indices{1});
  EXPECT_EQ(choose_victims(models, 11), (Indices{1, 2}));
  EXPECT_EQ(choose_victims(models, 30), (Indices{1, 2, 0}));
  EXPECT_EQ(choose_victims(models, 31), std::nullopt);
}

TEST(Eviction, WhoNeedNotGoStays) {
  const std::vector<Evictable> models{used_at(1, 5), used_at(2, 100)};
  EXPECT_EQ(choose_victims(models, 60), Indices{1});
}

// The simple model: of all sets that are enough and from which none could stay, the one that is
// left when those used last are spared first.
TEST(Eviction, SparesThoseUsedLastOnRandomTables) {
  std::mt19937 random(7);
  for (int round = 0; round < 5000; ++round) {
    std::vector<Evictable> models;
    const std::size_t count = random() % 8;
    std::vector<int> times(count);
    for (std::size_t i = 0; i < count; ++i) times[i] = static_cast<int>(i);
    std::shuffle(times.begin(), times.end(), random);
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < count; ++i) {
      models.push_back(used_at(times[i], 1 + random() % 20));
      all += models.back().bytes;
    }
    const std::uint64_t needed = random() % (all + 5);
    const auto victims = choose_victims(models, needed);
    ASSERT_EQ(victims.has_value(), all >= needed);
    if (!victims) continue;
    std::uint64_t freed = 0;
    std::uint64_t smallest = ~std::uint64_t{0};
    for (const std::size_t victim : *victims) {
      freed += models[victim].bytes;
      smallest = std::min(smallest, models[victim].bytes);
    }
    EXPECT_GE(freed, needed);
    if (!victims->empty()) {
      EXPECT_LT(freed - smallest, needed);  // none could stay
    }
    EXPECT_EQ(std::set(victims->begin(), victims->end()).size(), victims->size());
    // Nobody used later than all victims was touched, so long as the earlier ones are enough.
    const std::set<std::size_t> gone(victims->begin(), victims->end());
    for (const std::size_t victim : *victims) {
      std::uint64_t earlier = 0;
      for (const Evictable& model : models) {
        if (model.last_used < models[victim].last_used) earlier += model.bytes;
      }
      EXPECT_LT(earlier, needed);
    }
  }
}

TEST(ModelMemory, RefusesWhatCanNeverFitAndWhatDoesNotFitNow) {
  ModelMemory memory(100, [] { return std::vector<ModelMemory::Candidate>{}; });
  const auto never = [] { return false; };
  int a = 0;
  int b = 0;
  EXPECT_EQ(memory.reserve(&a, {101, 0, ""}, never).error().code, Code::kResourceExhausted);
  EXPECT_TRUE(memory.reserve(&a, {60, 0, ""}, never).ok());
  EXPECT_TRUE(memory.reserve(&a, {80, 0, ""}, never).ok());  // in all
  EXPECT_EQ(memory.reserved(), 80U);
  EXPECT_NE(memory.reserve(&b, {21, 0, ""}, never).error().message.find("others hold 80"),
            std::string::npos);
  EXPECT_TRUE(memory.reserve(&b, {20, 0, ""}, never).ok());
  memory.release(&a);
  EXPECT_EQ(memory.reserved(), 20U);
}

TEST(ModelMemory, EvictsAndWaitsUntilItIsReleased) {
  int victim = 0;
  int wanting = 0;
  int asked = 0;
  ModelMemory* self = nullptr;
  std::jthread releases;
  ModelMemory memory(100, [&] {
    ++asked;
    ModelMemory::Candidate candidate;
    candidate.what.bytes = 70;
    candidate.evict = [&] {
      self->releasing(&victim);
      releases = std::jthread([&] { self->release(&victim); });
      return true;
    };
    return std::vector{candidate};
  });
  self = &memory;
  const auto never = [] { return false; };
  ASSERT_TRUE(memory.reserve(&victim, {70, 0, ""}, never).ok());
  EXPECT_TRUE(memory.reserve(&wanting, {50, 0, ""}, never).ok());
  EXPECT_EQ(asked, 1);
  EXPECT_EQ(memory.reserved(), 50U);
}

TEST(ModelMemory, WeightsThatSeveralHaveCountOnceUntilTheLastIsReleased) {
  ModelMemory memory(100, [] { return std::vector<ModelMemory::Candidate>{}; });
  const auto never = [] { return false; };
  int a = 0;
  int b = 0;
  int c = 0;
  EXPECT_TRUE(memory.reserve(&a, {10, 60, "file"}, never).ok());
  EXPECT_TRUE(memory.reserve(&b, {20, 60, "file"}, never).ok());
  EXPECT_EQ(memory.reserved(), 90U);
  EXPECT_FALSE(memory.reserve(&c, {0, 11, "another"}, never).ok());
  EXPECT_FALSE(memory.reserve(&c, {11, 60, "file"}, never).ok());
  EXPECT_TRUE(memory.reserve(&c, {10, 60, "file"}, never).ok());
  memory.release(&c);
  memory.release(&a);
  EXPECT_EQ(memory.reserved(), 80U);
  EXPECT_FALSE(memory.reserve(&c, {21, 0, ""}, never).ok());
  // While one of two goes, its weights do not: to wait for it would be in vain.
  memory.releasing(&b);
  EXPECT_TRUE(memory.reserve(&a, {20, 60, "file"}, never).ok());
  EXPECT_FALSE(memory.reserve(&c, {30, 0, ""}, never).ok());
  memory.release(&b);
  EXPECT_EQ(memory.reserved(), 80U);
  memory.release(&a);
  EXPECT_EQ(memory.reserved(), 0U);
}

TEST(ModelMemory, WhoIsStoppedWaitsNoLonger) {
  ModelMemory memory(100, [] { return std::vector<ModelMemory::Candidate>{}; });
  int draining = 0;
  int wanting = 0;
  ASSERT_TRUE(memory.reserve(&draining, {90, 0, ""}, [] { return false; }).ok());
  memory.releasing(&draining);
  int looks = 0;
  const Status status = memory.reserve(&wanting, {50, 0, ""}, [&] { return ++looks > 2; });
  EXPECT_EQ(status.error().code, Code::kCancelled);
}

}  // namespace
}  // namespace weir::model
