// SPDX-License-Identifier: Apache-2.0
#include "agent/model/kv_cells.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "agent/model/kv_store.h"

namespace weir::model {
namespace {

using Tokens = std::vector<std::int32_t>;
using testing::ElementsAre;

TEST(KvCells, SharedCellsAreFreeWhenTheLastHolderLetsGo) {
  KvCells cells(3, 10);
  ASSERT_TRUE(cells.append(0, Tokens{1, 2, 3, 4}));
  cells.share(0, 1, 3);
  EXPECT_THAT(cells.tokens(1), ElementsAre(1, 2, 3));
  EXPECT_EQ(cells.free(), 6U);
  ASSERT_TRUE(cells.append(1, Tokens{9}));
  EXPECT_EQ(cells.free(), 5U);
  cells.truncate(0, 0);
  EXPECT_EQ(cells.free(), 6U);
  cells.truncate(1, 0);
  EXPECT_EQ(cells.free(), 10U);
}

TEST(KvCells, RefusesMoreThanThereIsAndChangesNothing) {
  KvCells cells(2, 4);
  ASSERT_TRUE(cells.append(0, Tokens{1, 2, 3}));
  EXPECT_FALSE(cells.append(1, Tokens{1, 2}));
  EXPECT_EQ(cells.free(), 1U);
  EXPECT_TRUE(cells.tokens(1).empty());
}

TEST(KvCells, KeptIsWhatNoRequestHolds) {
  KvCells cells(2, 10);
  cells.set_busy(0, true);
  ASSERT_TRUE(cells.append(0, Tokens{1, 2, 3, 4}));
  EXPECT_EQ(cells.in_use(), 4U);
  cells.set_busy(0, false);
  EXPECT_EQ(cells.in_use(), 0U);
  EXPECT_EQ(cells.kept(), 4U);
  cells.set_busy(1, true);
  cells.share(0, 1, 3);
  EXPECT_EQ(cells.in_use(), 3U);
  EXPECT_EQ(cells.kept(), 1U);
  EXPECT_EQ(cells.oldest_kept(), 0U);
}

TEST(KvCells, PlaceIsTheBestToUseAgainElseAnEmptyOneElseTheOldest) {
  KvCells cells(4, 40);
  for (const std::size_t slot : {0U, 1U, 2U, 3U}) cells.set_busy(slot, true);
  ASSERT_TRUE(cells.append(0, Tokens{1, 2, 3, 4, 5, 6, 7, 8}));
  ASSERT_TRUE(cells.append(1, Tokens{1, 2, 3, 9}));
  ASSERT_TRUE(cells.append(3, Tokens{7, 7}));
  EXPECT_EQ(cells.place_for(Tokens{1}), std::nullopt);
  for (const std::size_t slot : {3U, 0U, 1U, 2U}) cells.set_busy(slot, false);
  EXPECT_EQ(cells.place_for(Tokens{1, 2, 3, 5}), 1U);
  EXPECT_EQ(cells.place_for(Tokens{1, 2, 3, 4, 5}), 0U);
  EXPECT_EQ(cells.place_for(Tokens{5}), 2U);
  // Three tokens of eight would cost the other five.
  cells.truncate(1, 0);
  EXPECT_EQ(cells.place_for(Tokens{1, 2, 3, 5}), 1U);
  ASSERT_TRUE(cells.append(1, Tokens{4}));
  ASSERT_TRUE(cells.append(2, Tokens{4}));
  EXPECT_EQ(cells.place_for(Tokens{5}), 3U);
  EXPECT_EQ(cells.longest_match(Tokens{1, 2, 3, 5})->slot, 0U);
  EXPECT_EQ(cells.longest_match(Tokens{1, 2, 3, 5})->length, 3U);
  EXPECT_FALSE(cells.longest_match(Tokens{5}).has_value());
}

TEST(KvCells, APlaceIsNearerThatHasMoreBusyNeighbours) {
  KvCells cells(8, 16);
  EXPECT_EQ(cells.nearer_place(0), std::nullopt);
  for (const std::size_t slot : {2U, 4U, 5U}) cells.set_busy(slot, true);
  EXPECT_EQ(cells.nearer_place(7), 3U);  // between two of them
  EXPECT_EQ(cells.nearer_place(3), std::nullopt);
  cells.set_busy(3, true);
  EXPECT_EQ(cells.nearer_place(7), 1U);  // 6 is as near
  EXPECT_EQ(cells.nearer_place(6), std::nullopt);
  ASSERT_TRUE(cells.append(1, Tokens{1}));
  EXPECT_EQ(cells.nearer_place(7), 6U);
  ASSERT_TRUE(cells.append(6, Tokens{2}));
  cells.set_busy(1, true);
  cells.set_busy(1, false);
  EXPECT_EQ(cells.nearer_place(7), 6U);  // unused for longer
}

TEST(KvCells, SwapsWhatSlotsHold) {
  KvCells cells(3, 16);
  ASSERT_TRUE(cells.append(0, Tokens{1, 2}));
  ASSERT_TRUE(cells.append(1, Tokens{3}));
  cells.set_busy(0, true);
  cells.set_busy(0, false);
  EXPECT_EQ(cells.oldest_kept(), 1U);
  cells.swap(0, 1);
  EXPECT_EQ(cells.tokens(0).size(), 1U);
  EXPECT_EQ(cells.tokens(1).size(), 2U);
  EXPECT_EQ(cells.oldest_kept(), 0U);
  EXPECT_EQ(cells.free(), 13U);
  cells.truncate(1, 0);
  EXPECT_EQ(cells.free(), 15U);
}

// Against a model in which each token is an object that its holders own together.
TEST(KvCells, CountsAsIfEveryCellWereAnObjectWithOwners) {
  constexpr std::size_t kSlots = 6;
  constexpr std::size_t kCells = 60;
  using Object = std::shared_ptr<std::int32_t>;
  std::mt19937 random(4);
  for (int round = 0; round < 50; ++round) {
    KvCells cells(kSlots, kCells);
    std::vector<std::vector<Object>> model(kSlots);
    std::vector<bool> busy(kSlots, false);
    for (int i = 0; i < 300; ++i) {
      const std::size_t slot = random() % kSlots;
      const std::size_t other = random() % kSlots;
      std::set<const std::int32_t*> before;
      for (const auto& held : model) {
        for (const Object& object : held) before.insert(object.get());
      }
      switch (random() % 4) {
        case 0: {
          Tokens tokens(random() % 8);
          for (auto& token : tokens) token = static_cast<std::int32_t>(random() % 3);
          const bool fits = before.size() + tokens.size() <= kCells;
          ASSERT_EQ(cells.append(slot, tokens), fits);
          for (const auto token : tokens) {
            if (fits) model[slot].push_back(std::make_shared<std::int32_t>(token));
          }
          break;
        }
        case 1: {
          const std::size_t length = random() % 20;
          cells.truncate(slot, length);
          if (model[slot].size() > length) model[slot].resize(length);
          break;
        }
        case 2: {
          if (slot == other) break;
          const std::size_t length = random() % (model[slot].size() + 1);
          cells.share(slot, other, length);
          model[other].assign(model[slot].begin(),
                              model[slot].begin() + static_cast<std::ptrdiff_t>(length));
          break;
        }
        default:
          busy[slot] = random() % 2 == 0;
          cells.set_busy(slot, busy[slot]);
      }
      std::set<const std::int32_t*> all;
      std::set<const std::int32_t*> used;
      for (std::size_t each = 0; each < kSlots; ++each) {
        Tokens tokens;
        for (const Object& object : model[each]) {
          tokens.push_back(*object);
          all.insert(object.get());
          if (busy[each]) used.insert(object.get());
        }
        ASSERT_TRUE(std::ranges::equal(cells.tokens(each), tokens));
      }
      ASSERT_EQ(cells.free(), kCells - all.size());
      ASSERT_EQ(cells.in_use(), used.size());
      ASSERT_EQ(cells.kept(), all.size() - used.size());
    }
  }
}

TEST(KvStore, MemoryThatIsOverwrittenDoesNotGoBack) {
  EXPECT_TRUE(memory_goes_back(/*recurrent=*/false, /*hybrid=*/false));
  EXPECT_FALSE(memory_goes_back(true, false));
  EXPECT_FALSE(memory_goes_back(false, true));
}

}  // namespace
}  // namespace weir::model
