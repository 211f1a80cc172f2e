// SPDX-License-Identifier: Apache-2.0
//
// Which models go: by example, and on random tables.
#include "agent/model/eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "agent/model/model_memory.h"

namespace weir::model {
namespace {

Evictable used_at(int second, std::uint64_t own_bytes, std::uint64_t weights_bytes = 0,
                  std::string weights = {}) {
  return {{own_bytes, weights_bytes, std::move(weights)}, TimePoint(std::chrono::seconds(second))};
}

using Indices = std::vector<std::size_t>;

constexpr std::uint64_t kStaying = 1000;

/// Of all models, and another one that stays, so many bytes are to come free.
std::optional<Indices> victims_for(const std::vector<Evictable>& models, std::uint64_t needed) {
  MemorySum staying;
  staying.add({kStaying, 0, ""});
  MemorySum all = staying;
  for (const Evictable& model : models) all.add(model.claim);
  return choose_victims(models, staying, all.bytes() - needed);
}

TEST(Eviction, LeastRecentlyUsedGoFirst) {
  const std::vector<Evictable> models{used_at(3, 10), used_at(1, 10), used_at(2, 10)};
  EXPECT_EQ(victims_for(models, 0), Indices{});
  EXPECT_EQ(victims_for(models, 10), Indices{1});
  EXPECT_EQ(victims_for(models, 11), (Indices{1, 2}));
  EXPECT_EQ(victims_for(models, 30), (Indices{1, 2, 0}));
  EXPECT_EQ(victims_for(models, 31), std::nullopt);
}

TEST(Eviction, WhoNeedNotGoStays) {
  const std::vector<Evictable> models{used_at(1, 5), used_at(2, 100)};
  EXPECT_EQ(victims_for(models, 60), Indices{1});
}

TEST(Eviction, SharedWeightsComeFreeWithTheLastOfThoseWhoHaveThem) {
  const std::vector<Evictable> models{used_at(1, 10, 100, "file"), used_at(2, 50),
                                      used_at(3, 20, 100, "file")};
  EXPECT_EQ(victims_for(models, 10), Indices{0});
  EXPECT_EQ(victims_for(models, 11), Indices{1}) << "the first one's own bytes are not enough";
  EXPECT_EQ(victims_for(models, 61), (Indices{0, 2}));
  EXPECT_EQ(victims_for(models, 130), (Indices{0, 2}));
  EXPECT_EQ(victims_for(models, 131), (Indices{0, 1, 2}));
  EXPECT_EQ(victims_for(models, 181), std::nullopt);
}

TEST(Eviction, WeightsOfOneThatStaysNeverComeFree) {
  MemorySum staying;
  staying.add({5, 100, "file"});
  const std::vector<Evictable> models{used_at(1, 10, 100, "file"), used_at(2, 30)};
  EXPECT_EQ(choose_victims(models, staying, 125), Indices{1});
  EXPECT_EQ(choose_victims(models, staying, 105), (Indices{0, 1}));
  EXPECT_EQ(choose_victims(models, staying, 104), std::nullopt);
}

TEST(MemorySum, SharedWeightsCountOnceAsTheLargestClaimOfThem) {
  MemorySum sum;
  sum.add({1, 10, "file"});
  sum.add({2, 30, "file"});
  sum.add({4, 10, ""});
  sum.add({8, 10, ""});
  EXPECT_EQ(sum.bytes(), 1U + 2 + 30 + 14 + 18);
  sum.remove({2, 30, "file"});
  sum.remove({4, 10, ""});
  EXPECT_EQ(sum.bytes(), 1U + 10 + 18);
  sum.remove({1, 10, "file"});
  sum.remove({8, 10, ""});
  EXPECT_EQ(sum.bytes(), 0U);
}

/// What is left when these have gone, added up one by one.
std::uint64_t left_without(const std::vector<Evictable>& models,
                           const std::set<std::size_t>& gone) {
  std::uint64_t own = kStaying;
  std::map<std::string, std::uint64_t> weights;
  for (std::size_t i = 0; i < models.size(); ++i) {
    const MemoryClaim& claim = models[i].claim;
    if (gone.contains(i)) continue;
    own += claim.own_bytes;
    if (claim.weights.empty()) {
      own += claim.weights_bytes;
    } else {
      weights[claim.weights] = claim.weights_bytes;
    }
  }
  for (const auto& [name, bytes] : weights) own += bytes;
  return own;
}

// Held against sums made anew: they are enough, none of them could stay, and nobody goes who was
// used later than others that would have been enough.
TEST(Eviction, SparesThoseUsedLastOnRandomTables) {
  constexpr std::array<std::uint64_t, 3> kFileBytes = {7, 12, 30};
  std::mt19937 random(7);
  int refusals = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<Evictable> models;
    const std::size_t count = random() % 8;
    std::vector<int> times(count);
    std::iota(times.begin(), times.end(), 0);
    std::shuffle(times.begin(), times.end(), random);
    std::set<std::size_t> everyone;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t file = random() % 5;
      const std::uint64_t own = 1 + random() % 20;
      if (file < kFileBytes.size()) {
        models.push_back(used_at(times[i], own, kFileBytes[file], std::to_string(file)));
      } else {
        models.push_back(used_at(times[i], own, random() % 20));
      }
      everyone.insert(i);
    }
    const std::uint64_t all = left_without(models, {}) - kStaying;
    const std::uint64_t needed = random() % (all + 5);
    const auto victims = victims_for(models, needed);
    ASSERT_EQ(victims.has_value(), all >= needed);
    refusals += victims ? 0 : 1;
    if (!victims) continue;
    const std::uint64_t most = kStaying + all - needed;
    const std::set<std::size_t> gone(victims->begin(), victims->end());
    EXPECT_EQ(gone.size(), victims->size());
    EXPECT_LE(left_without(models, gone), most);
    for (const std::size_t victim : *victims) {
      std::set<std::size_t> others = gone;
      others.erase(victim);
      EXPECT_GT(left_without(models, others), most);
      std::set<std::size_t> earlier;
      for (const std::size_t i : everyone) {
        if (models[i].last_used < models[victim].last_used) earlier.insert(i);
      }
      EXPECT_GT(left_without(models, earlier), most);
    }
  }
  EXPECT_GT(refusals, 0);
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
    candidate.holder = &victim;
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

/// A model that nobody uses, for a test that evicts it and sees that it has.
struct Idle {
  ModelMemory::Candidate candidate(ModelMemory& memory, int second) {
    return {this, TimePoint(std::chrono::seconds(second)), [this, &memory] {
              ++evictions;
              memory.releasing(this);
              memory.release(this);
              return true;
            }};
  }
  int evictions = 0;
};

TEST(ModelMemory, NobodyGoesForWeightsThatAnotherOneKeeps) {
  Idle first;
  Idle second;
  int busy = 0;
  int wanting = 0;
  ModelMemory* self = nullptr;
  ModelMemory memory(150, [&] {
    return std::vector{first.candidate(*self, 1), second.candidate(*self, 2)};
  });
  self = &memory;
  const auto never = [] { return false; };
  ASSERT_TRUE(memory.reserve(&first, {10, 60, "file"}, never).ok());
  ASSERT_TRUE(memory.reserve(&busy, {20, 60, "file"}, never).ok());
  ASSERT_TRUE(memory.reserve(&second, {60, 0, ""}, never).ok());
  // The weights stay with the one that is busy: the first one would go for 10 bytes.
  EXPECT_FALSE(memory.reserve(&wanting, {71, 0, ""}, never).ok());
  EXPECT_EQ(first.evictions + second.evictions, 0) << "in vain";
  EXPECT_TRUE(memory.reserve(&wanting, {50, 0, ""}, never).ok());
  EXPECT_EQ(second.evictions, 1);
  EXPECT_EQ(first.evictions, 0);
  EXPECT_EQ(memory.reserved(), 140U);
}

TEST(ModelMemory, WeightsThatWillBeUsedAgainDoNotComeFree) {
  Idle idle;
  Idle other;
  int wanting = 0;
  ModelMemory* self = nullptr;
  ModelMemory memory(100, [&] {
    return std::vector{idle.candidate(*self, 1), other.candidate(*self, 2)};
  });
  self = &memory;
  const auto never = [] { return false; };
  ASSERT_TRUE(memory.reserve(&idle, {5, 60, "file"}, never).ok());
  ASSERT_TRUE(memory.reserve(&other, {30, 0, ""}, never).ok());
  // Of 65 bytes that the idle one has, 60 are of the file that is wanted.
  EXPECT_TRUE(memory.reserve(&wanting, {30, 60, "file"}, never).ok());
  EXPECT_EQ(idle.evictions, 0);
  EXPECT_EQ(other.evictions, 1);
  EXPECT_EQ(memory.reserved(), 95U);
}

TEST(ModelMemory, CandidateThatHasGoneMeanwhileCountsForNothing) {
  Idle gone;
  int busy = 0;
  int wanting = 0;
  ModelMemory* self = nullptr;
  ModelMemory memory(100, [&] { return std::vector{gone.candidate(*self, 1)}; });
  self = &memory;
  const auto never = [] { return false; };
  ASSERT_TRUE(memory.reserve(&busy, {90, 0, ""}, never).ok());
  EXPECT_FALSE(memory.reserve(&wanting, {20, 0, ""}, never).ok());
  EXPECT_EQ(gone.evictions, 0);
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
