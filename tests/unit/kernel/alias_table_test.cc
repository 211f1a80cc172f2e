// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/alias_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "bpf/lib/alias.bpf.h"

namespace weir::kernel {
namespace {

constexpr double kTwoTo32 = 4294967296.0;

/// The probability with which the table yields each backend, computed exactly.
std::map<std::uint32_t, double> shares(const std::vector<weir_pick_slot>& table) {
  std::map<std::uint32_t, double> share;
  const double slots = static_cast<double>(table.size());
  for (const weir_pick_slot& slot : table) {
    const double stay = slot.threshold / kTwoTo32;
    share[slot.backend] += stay / slots;
    share[slot.alias] += (1 - stay) / slots;
  }
  return share;
}

TEST(AliasTable, IsEmptyWithoutPositiveWeight) {
  EXPECT_TRUE(build_alias_table({}).empty());
  EXPECT_TRUE(build_alias_table({{1, 0.0}, {2, 0.0}}).empty());
}

TEST(AliasTable, OneBackendTakesEverything) {
  const auto table = build_alias_table({{7, 0.25}});
  ASSERT_EQ(table.size(), 1U);
  EXPECT_EQ(table[0].threshold, std::numeric_limits<std::uint32_t>::max());
  EXPECT_EQ(table[0].backend, 7U);
  EXPECT_EQ(table[0].alias, 7U);
}

TEST(AliasTable, LeavesOutBackendsOfWeightZero) {
  const auto share = shares(build_alias_table({{1, 3.0}, {2, 0.0}, {3, 1.0}}));
  EXPECT_EQ(share.count(2), 0U);
  EXPECT_NEAR(share.at(1), 0.75, 1e-9);
  EXPECT_NEAR(share.at(3), 0.25, 1e-9);
}

TEST(AliasTable, YieldsEveryBackendWithItsShareForRandomWeights) {
  std::mt19937 random(20240607);
  std::uniform_int_distribution<std::uint32_t> sizes(1, 64);
  std::uniform_real_distribution<double> exponent(-6, 6);
  for (int round = 0; round < 2000; ++round) {
    std::vector<WeightedBackend> backends(sizes(random));
    double sum = 0;
    for (std::uint32_t i = 0; i < backends.size(); ++i) {
      backends[i] = {1000 + i, std::pow(10, exponent(random))};
      sum += backends[i].weight;
    }
    const auto table = build_alias_table(backends);
    ASSERT_EQ(table.size(), backends.size());
    auto share = shares(table);
    for (const WeightedBackend& backend : backends) {
      ASSERT_NEAR(share[backend.index], backend.weight / sum, 1e-8) << "round " << round;
      share.erase(backend.index);
    }
    ASSERT_TRUE(share.empty()) << "a backend that was not asked for";
  }
}

TEST(AliasTable, SurvivesExtremeWeights) {
  const double largest = std::numeric_limits<double>::max();
  const auto share = shares(build_alias_table({{1, largest}, {2, largest}, {3, 1e-300}}));
  EXPECT_NEAR(share.at(1), 0.5, 1e-8);
  EXPECT_NEAR(share.at(2), 0.5, 1e-8);
}

TEST(Pick, DrawsFollowTheWeights) {
  const std::vector<WeightedBackend> backends = {{0, 70}, {1, 20}, {2, 9}, {3, 1}};
  const auto table = build_alias_table(backends);
  std::mt19937 random(42);
  constexpr double kDraws = 1e6;
  std::array<double, 4> drawn{};
  for (int i = 0; i < static_cast<int>(kDraws); ++i) {
    const auto slot = weir_alias_slot(static_cast<std::uint32_t>(random()),
                                      static_cast<std::uint32_t>(table.size()));
    ASSERT_LT(slot, table.size());
    drawn[weir_alias_choose(&table[slot], static_cast<std::uint32_t>(random()))] += 1;
  }
  double chi_square = 0;
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    const double expected = kDraws * backends[i].weight / 100;
    chi_square += (drawn[i] - expected) * (drawn[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 16.27);  // 3 degrees of freedom, p = 0.001
}

TEST(Pick, SlotCoversTheWholeRange) {
  EXPECT_EQ(weir_alias_slot(0, 3), 0U);
  EXPECT_EQ(weir_alias_slot(0xffffffffU, 3), 2U);
  EXPECT_EQ(weir_alias_slot(0x80000000U, 2), 1U);
  EXPECT_EQ(weir_alias_slot(0x7fffffffU, 2), 0U);
}

TEST(Pick, TableWordHoldsFirstSlotAndCount) {
  const std::uint64_t word = (std::uint64_t{5} << 32) | 128;
  EXPECT_EQ(weir_table_first(word), 128U);
  EXPECT_EQ(weir_table_slots(word), 5U);
}

}  // namespace
}  // namespace weir::kernel
