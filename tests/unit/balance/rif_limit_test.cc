// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/rif_limit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tests/fixtures/fake_maps.h"

namespace weir::balance {
namespace {

constexpr double kQuantile = 0.8408964152537145;

TEST(RifLimit, OfSmallPoolsIsAMultipleOfTheMedian) {
  EXPECT_DOUBLE_EQ(rif_limit({}), 0);
  EXPECT_DOUBLE_EQ(rif_limit({0}), 2);
  EXPECT_DOUBLE_EQ(rif_limit({8}), 10);
  EXPECT_DOUBLE_EQ(rif_limit({1, 2}), 2) << "1.25 * 1.5 is below the least";
  EXPECT_DOUBLE_EQ(rif_limit({12, 4}), 10);
  EXPECT_DOUBLE_EQ(rif_limit({100, 4, 1}), 5);
}

TEST(RifLimit, OfLargerPoolsIsAQuantile) {
  EXPECT_DOUBLE_EQ(rif_limit({0, 0, 0, 0}), 0);
  EXPECT_NEAR(rif_limit({3, 1, 2, 0}), 3 * kQuantile, 1e-12);
  std::vector<double> loads;
  for (int i = 100; i >= 0; --i) loads.push_back(i);
  EXPECT_NEAR(rif_limit(loads), 100 * kQuantile, 1e-9);
}

/// Pools of all sizes, with loads in quarters, ties included.
class RifLimitProperty : public testing::TestWithParam<std::size_t> {
 protected:
  std::vector<double> random_loads() {
    std::uniform_int_distribution<int> quarters(0, 80);
    std::vector<double> loads(GetParam());
    for (double& load : loads) load = quarters(random) / 4.0;
    return loads;
  }
  static std::size_t hot(const std::vector<double>& loads) {
    const double limit = rif_limit(loads);
    return static_cast<std::size_t>(
        std::count_if(loads.begin(), loads.end(), [&](double load) { return load > limit; }));
  }

  std::mt19937 random{7};
};

TEST_P(RifLimitProperty, LeavesAColdBackendAndFewHotOnes) {
  for (int round = 0; round < 500; ++round) {
    const auto loads = random_loads();
    EXPECT_LT(hot(loads), loads.size());
    if (loads.size() < 4) continue;
    // Those above an interpolated quantile are at most the places above it.
    const auto places = std::ceil((1 - kQuantile) * static_cast<double>(loads.size() - 1));
    EXPECT_LE(hot(loads), static_cast<std::size_t>(places));
    EXPECT_GE(rif_limit(loads), *std::min_element(loads.begin(), loads.end()));
    EXPECT_LE(rif_limit(loads), *std::max_element(loads.begin(), loads.end()));
  }
}

TEST_P(RifLimitProperty, ALoneLoadedBackendIsHot) {
  std::vector<double> loads(GetParam(), 1);
  loads.back() = 50;
  EXPECT_EQ(hot(loads), GetParam() == 1 ? 0U : 1U);
}

TEST_P(RifLimitProperty, DoesNotDependOnTheOrder) {
  for (int round = 0; round < 50; ++round) {
    auto loads = random_loads();
    const double limit = rif_limit(loads);
    std::shuffle(loads.begin(), loads.end(), random);
    EXPECT_EQ(rif_limit(loads), limit);
  }
}

TEST_P(RifLimitProperty, NeverFallsWhenALoadGrows) {
  for (std::size_t round = 0; round < 200; ++round) {
    auto loads = random_loads();
    const double limit = rif_limit(loads);
    loads[round % loads.size()] += static_cast<double>(1 + round % 9);
    EXPECT_GE(rif_limit(loads), limit);
  }
}

TEST_P(RifLimitProperty, EqualLoadsAreAllCold) {
  EXPECT_EQ(hot(std::vector<double>(GetParam(), 17.25)), 0U);
}

INSTANTIATE_TEST_SUITE_P(PoolSizes, RifLimitProperty,
                         testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 31, 200));

class RifLimits : public testing::Test {
 protected:
  RifLimits() {
    maps.add_service("chat", "127.111.0.10:80",
                     {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"});
    for (std::size_t i = 0; i < 4; ++i) maps.backend(i).waiting = static_cast<std::uint32_t>(i);
  }
  double limit_of(std::size_t pool) {
    for (const auto& limit : rif_limits(maps.snapshot.backends)) {
      if (limit.pool == pool) return limit.rif_limit;
    }
    return -1;
  }

  FakeMaps maps;
};

TEST_F(RifLimits, LoadIsWhatTheKernelTakesForIt) {
  auto& backend = maps.backend(0);
  backend.fresh = 3;
  backend.waiting = 2;
  backend.streaming = 5;
  backend.in_flight = 40;  // idle ones are no load
  EXPECT_DOUBLE_EQ(backend.load(), 6.25);
}

TEST_F(RifLimits, EachPoolHasItsOwn) {
  maps.add_backup(0, {"127.0.0.1:9"});
  maps.backend(4).waiting = 8;
  EXPECT_NEAR(limit_of(0), 3 * kQuantile, 1e-12);
  EXPECT_DOUBLE_EQ(limit_of(1), 10);
  EXPECT_EQ(rif_limits(maps.snapshot.backends).size(), 2U);
}

TEST_F(RifLimits, OpenAndDrainingBackendsDoNotPullItDown) {
  maps.open(0, std::chrono::seconds(5));
  EXPECT_DOUBLE_EQ(limit_of(0), 2.5) << "of 1, 2 and 3";
  maps.half_open(0);
  EXPECT_NEAR(limit_of(0), 3 * kQuantile, 1e-12);
  maps.backend(0).state = WEIR_BE_DRAINING;
  EXPECT_DOUBLE_EQ(limit_of(0), 2.5);
}

TEST_F(RifLimits, APoolThatIsOpenAltogetherIsInPanicAndCountsAll) {
  for (std::size_t i = 0; i < 4; ++i) maps.open(i, std::chrono::seconds(5));
  EXPECT_NEAR(limit_of(0), 3 * kQuantile, 1e-12);
}

}  // namespace
}  // namespace weir::balance
