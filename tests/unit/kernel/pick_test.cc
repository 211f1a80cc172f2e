// SPDX-License-Identifier: Apache-2.0
//
// The policies against a model that knows every draw's exact probability.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>

#include "agent/kernel/alias_table.h"
#include "agent/kernel/decode.h"
#include "agent/kernel/names.h"
#include "tests/unit/kernel/pick_environment.h"

namespace weir::kernel {
namespace {

constexpr std::uint32_t kPool = 3;
constexpr std::uint32_t kFirstBackend = 5;  // records before it belong to other pools
constexpr double kTwoTo32 = 4294967296.0;

/// What one backend of the pool is made of.
struct Member {
  double weight = 1;
  std::uint32_t load = 0;  ///< quarters of a request, a multiple of 4 or below 4
  std::uint32_t latency_us = 0;
  bool open = false;
};

class PickTest : public testing::Test {
 protected:
  void set_members(std::vector<Member> members) {
    members_ = std::move(members);
    environment_.backends.assign(kFirstBackend + members_.size(), {});
    std::vector<WeightedBackend> weights;
    for (std::uint32_t i = 0; i < members_.size(); ++i) {
      weir_be& be = environment_.backends[kFirstBackend + i];
      be.address = encode(Endpoint::parse("127.0.0.1:" + std::to_string(1000 + i)).value());
      be.pool = kPool;
      be.state = WEIR_BE_ACTIVE;
      be.weight_q16 = to_q16(members_[i].weight);
      be.latency_us = members_[i].latency_us;
      be.waiting = members_[i].load / 4;
      be.streaming = members_[i].load % 4;
      weir_breaker breaker{};
      breaker.state = members_[i].open ? WEIR_BREAKER_OPEN : WEIR_BREAKER_CLOSED;
      breaker.until_ms = members_[i].open ? environment_.now_ms + 1000 : 0;
      be.breaker = weir_breaker_pack(&breaker);
      weights.push_back({kFirstBackend + i, members_[i].weight});
    }
    environment_.slots = build_alias_table(weights);
    pool_.table = static_cast<std::uint64_t>(environment_.slots.size()) << 32;
  }

  weir_choice pick(std::uint32_t flags = 0, std::uint32_t avoid = WEIR_NO_BACKEND) {
    const weir_wish wish{kPool, flags, avoid};
    weir_choice choice{};
    weir_pick_backend(&pool_, &wish, &choice);
    return choice;
  }

  [[nodiscard]] const Member& member(std::uint32_t backend) const {
    return members_[backend - kFirstBackend];
  }

  PickEnvironment environment_;
  std::vector<Member> members_;
  weir_pool pool_{};
};

/// Exact probabilities of what a policy of draws picks: all outcomes of its draws, each with its
/// probability, and the rules written down a second time.
class Model {
 public:
  Model(const std::vector<weir_pick_slot>& slots, const std::vector<Member>& members,
        weir_policy policy, std::uint32_t rif_limit)
      : slots_(slots), members_(members), policy_(policy), rif_limit_(rif_limit) {}

  std::map<std::uint32_t, double> shares() const {
    std::map<std::uint32_t, double> shares;
    for (const Draw& first : draws()) {
      if (policy_ == WEIR_POLICY_WEIGHTED_RANDOM) {
        shares[or_scan(first.usable, first.slot)] += first.probability;
        continue;
      }
      for (const Draw& second : draws()) {
        const double both = first.probability * second.probability;
        if (second.usable != first.usable || slots_.size() == 1) {
          shares[or_scan(choose(first.usable, second.usable), first.slot)] += both;
          continue;
        }
        for (const Draw& third : draws()) {
          shares[or_scan(choose(first.usable, third.usable), first.slot)] +=
              both * third.probability;
        }
      }
    }
    return shares;
  }

 private:
  using Backend = std::optional<std::uint32_t>;  ///< unset: not to be used
  struct Draw {
    std::size_t slot = 0;
    Backend usable;
    double probability = 0;
  };

  [[nodiscard]] const Member& of(std::uint32_t backend) const {
    return members_[backend - kFirstBackend];
  }

  [[nodiscard]] Backend if_usable(std::uint32_t backend) const {
    return of(backend).open ? Backend() : Backend(backend);
  }

  [[nodiscard]] std::vector<Draw> draws() const {
    std::vector<Draw> all;
    const double slot = 1.0 / static_cast<double>(slots_.size());
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      const double stay = slots_[i].threshold / kTwoTo32;
      all.push_back({i, if_usable(slots_[i].backend), slot * stay});
      all.push_back({i, if_usable(slots_[i].alias), slot * (1 - stay)});
    }
    return all;
  }

  [[nodiscard]] Backend choose(Backend a, Backend b) const {
    if (!a || !b) return a ? a : b;
    const Member& first = of(*a);
    const Member& second = of(*b);
    if (policy_ == WEIR_POLICY_PREQUAL) {
      const bool first_cold = first.load <= rif_limit_;
      const bool second_cold = second.load <= rif_limit_;
      if (first_cold && !second_cold) return a;
      if (second_cold && !first_cold) return b;
      if (first_cold && first.latency_us > 0 && second.latency_us > 0) {
        if (first.latency_us < second.latency_us) return a;
        if (second.latency_us < first.latency_us) return b;
      }
    }
    return second.load / second.weight < first.load / first.weight ? b : a;
  }

  [[nodiscard]] std::uint32_t or_scan(Backend chosen, std::size_t slot) const {
    if (chosen) return *chosen;
    for (std::size_t step = 1; step <= slots_.size(); ++step) {
      const auto next = if_usable(slots_[(slot + step) % slots_.size()].backend);
      if (next) return *next;
    }
    return WEIR_NO_BACKEND;
  }

  const std::vector<weir_pick_slot>& slots_;
  const std::vector<Member>& members_;
  weir_policy policy_;
  std::uint32_t rif_limit_;
};

class PickAgainstModel : public PickTest, public testing::WithParamInterface<weir_policy> {};

/// 20 random pools of 500,000 picks each: 10^7 per policy.
TEST_P(PickAgainstModel, SharesAreExact) {
  constexpr int kPools = 20;
  constexpr int kPicks = 500'000;
  std::mt19937 random(20261123U + static_cast<std::uint32_t>(GetParam()));
  const auto below = [&](std::uint32_t limit) {
    return std::uniform_int_distribution<std::uint32_t>(0, limit - 1)(random);
  };
  for (int round = 0; round < kPools; ++round) {
    std::vector<Member> members(1 + below(8));
    for (Member& member : members) {
      // Powers of two: as exact in Q16 as in the model.
      member.weight = std::ldexp(1.0, static_cast<int>(below(5)) - 2);
      member.load = below(2) == 0 ? 4 * below(6) : below(4);
      member.latency_us = below(3) == 0 ? 0 : 100 * (1 + below(4));
      member.open = below(4) == 0;
    }
    set_members(members);
    pool_.policy = GetParam();
    pool_.rif_limit = 4 * below(5);
    const auto shares = Model(environment_.slots, members, GetParam(), pool_.rif_limit).shares();

    std::map<std::uint32_t, int> counts;
    for (int i = 0; i < kPicks; ++i) ++counts[pick().backend];
    for (const auto& [backend, share] : shares) {
      const double expected = share * kPicks;
      const double sigma = std::sqrt(kPicks * share * (1 - share));
      EXPECT_NEAR(counts[backend], expected, 5 * sigma + 1e-6)
          << "round " << round << " backend " << backend;
      counts.erase(backend);
    }
    for (const auto& [backend, count] : counts) {
      EXPECT_EQ(count, 0) << "round " << round << ": the model never picks " << backend;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OfDraws, PickAgainstModel,
                         testing::Values(WEIR_POLICY_PREQUAL, WEIR_POLICY_P2C,
                                         WEIR_POLICY_WEIGHTED_RANDOM),
                         [](const auto& policy) { return std::string(to_string(policy.param)); });

TEST_F(PickTest, RoundRobinOfEqualWeightsGivesEveryBackendEveryLap) {
  set_members(std::vector<Member>(7));
  pool_.policy = WEIR_POLICY_ROUND_ROBIN;
  for (int lap = 0; lap < 1000; ++lap) {
    std::map<std::uint32_t, int> counts;
    for (std::size_t i = 0; i < members_.size(); ++i) ++counts[pick().backend];
    ASSERT_EQ(counts.size(), members_.size()) << "lap " << lap;
  }
}

/// Far closer to the weights than chance would come: 10^7 random draws would be off by thousands.
TEST_F(PickTest, RoundRobinFollowsUnequalWeightsWithoutChance) {
  set_members({{.weight = 5}, {.weight = 1}, {.weight = 1}, {.weight = 0.3}});
  pool_.policy = WEIR_POLICY_ROUND_ROBIN;
  constexpr int kPicks = 10'000'000;
  std::map<std::uint32_t, int> counts;
  for (int i = 0; i < kPicks; ++i) ++counts[pick().backend];
  for (std::uint32_t i = 0; i < members_.size(); ++i) {
    EXPECT_NEAR(counts[kFirstBackend + i], kPicks * members_[i].weight / 7.3, 60);
  }
}

TEST_F(PickTest, RoundRobinGivesTheTurnOfAnOpenBackendToTheNext) {
  set_members({{}, {.open = true}, {}});
  pool_.policy = WEIR_POLICY_ROUND_ROBIN;
  std::map<std::uint32_t, int> counts;
  for (int i = 0; i < 300; ++i) ++counts[pick().backend];
  EXPECT_EQ(counts[kFirstBackend], 100);
  EXPECT_EQ(counts[kFirstBackend + 2], 200);
}

TEST_F(PickTest, LeastInflightTakesTheLeastForItsWeight) {
  std::mt19937 random(7);
  pool_.policy = WEIR_POLICY_LEAST_INFLIGHT;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<Member> members(1 + random() % 16);
    for (Member& member : members) {
      member.weight = std::ldexp(1.0, static_cast<int>(random() % 3));
      member.load = 4 * static_cast<std::uint32_t>(random() % 20);
      member.open = random() % 4 == 0;
    }
    set_members(members);
    double least = std::numeric_limits<double>::infinity();
    for (const Member& member : members) {
      if (!member.open) least = std::min(least, (member.load + 4) / member.weight);
    }
    const weir_choice choice = pick();
    if (std::isinf(least)) {
      ASSERT_EQ(choice.backend, WEIR_NO_BACKEND);
      continue;
    }
    ASSERT_NE(choice.backend, WEIR_NO_BACKEND);
    ASSERT_FALSE(member(choice.backend).open);
    ASSERT_EQ((member(choice.backend).load + 4) / member(choice.backend).weight, least);
    ASSERT_EQ(choice.rule, weir_u32{WEIR_RULE_LEAST});
  }
}

TEST_F(PickTest, LeastInflightLooksAt64OfALargePoolFromARandomPlace) {
  std::vector<Member> members(1000);
  for (Member& member : members) member.load = 400;
  for (std::size_t i = 0; i < members.size(); i += 50) members[i].load = 0;
  set_members(members);
  pool_.policy = WEIR_POLICY_LEAST_INFLIGHT;
  std::map<std::uint32_t, int> counts;
  for (int i = 0; i < 20'000; ++i) ++counts[pick().backend];
  EXPECT_EQ(counts.size(), 20U);  // each idle one is within reach of some places
  for (const auto& [backend, count] : counts) EXPECT_EQ(member(backend).load, 0U);
}

TEST_F(PickTest, EveryRuleIsNamed) {
  pool_.policy = WEIR_POLICY_PREQUAL;
  pool_.rif_limit = 8;
  const auto rules = [&] {
    std::map<std::uint32_t, int> seen;
    for (int i = 0; i < 1000; ++i) ++seen[pick().rule];
    return seen;
  };
  set_members({{}});
  EXPECT_EQ(rules().count(WEIR_RULE_SAME), 1U);
  set_members({{.load = 12}, {.load = 8}});
  EXPECT_EQ(rules().count(WEIR_RULE_COLD), 1U);
  set_members({{.latency_us = 1}, {.latency_us = 2}});
  EXPECT_EQ(rules().count(WEIR_RULE_LATENCY), 1U);
  set_members({{.load = 12}, {.load = 16}});
  EXPECT_EQ(rules().count(WEIR_RULE_LOAD), 1U);
  set_members({{.open = true}, {.open = true}, {.open = true}, {}});
  EXPECT_EQ(rules().count(WEIR_RULE_ONLY), 1U);
  EXPECT_EQ(rules().count(WEIR_RULE_SCAN), 1U);
  set_members({{.open = true}});
  EXPECT_EQ(rules(), (std::map<std::uint32_t, int>{{WEIR_RULE_NONE, 1000}}));
  pool_.table = 0;
  EXPECT_EQ(pick().rule, weir_u32{WEIR_RULE_NONE});
}

TEST_F(PickTest, NeverReturnsWhatMayNotBeUsed) {
  for (const auto policy : {WEIR_POLICY_PREQUAL, WEIR_POLICY_P2C, WEIR_POLICY_WEIGHTED_RANDOM,
                            WEIR_POLICY_ROUND_ROBIN, WEIR_POLICY_LEAST_INFLIGHT}) {
    set_members(std::vector<Member>(5));
    pool_.policy = policy;
    auto& backends = environment_.backends;
    backends[kFirstBackend].state = WEIR_BE_DRAINING;
    backends[kFirstBackend + 1].pool = kPool + 1;  // the record was given away
    backends[kFirstBackend + 2].address = encode(Endpoint::parse("[2001:db8::1]:80").value());
    for (int i = 0; i < 1000; ++i) {
      EXPECT_EQ(pick(WEIR_PICK_V4, kFirstBackend + 3).backend, kFirstBackend + 4);
      EXPECT_NE(pick().backend, kFirstBackend);
    }
    backends[kFirstBackend + 4].state = WEIR_BE_DRAINING;
    EXPECT_EQ(pick(WEIR_PICK_V4, kFirstBackend + 3).backend, WEIR_NO_BACKEND);
    EXPECT_EQ(pick(WEIR_PICK_V6).backend, kFirstBackend + 2);
    EXPECT_EQ(pick(WEIR_PICK_V6, kFirstBackend + 2).backend, WEIR_NO_BACKEND);
  }
}

TEST_F(PickTest, PanicIgnoresTheBreakers) {
  set_members({{.open = true}, {.open = true}});
  EXPECT_EQ(pick().backend, WEIR_NO_BACKEND);
  std::map<std::uint32_t, int> counts;
  for (int i = 0; i < 1000; ++i) ++counts[pick(WEIR_PICK_PANIC).backend];
  EXPECT_EQ(counts.size(), 2U);
}

TEST_F(PickTest, IdleBackendsGetTheirShareByWeight) {
  set_members({{.weight = 10}, {.weight = 1}});
  for (const auto policy : {WEIR_POLICY_PREQUAL, WEIR_POLICY_P2C}) {
    pool_.policy = policy;
    int light = 0;
    for (int i = 0; i < 11'000; ++i) light += pick().backend == kFirstBackend + 1 ? 1 : 0;
    EXPECT_NEAR(light, 1000, 160);  // the first of two draws decides
  }
}

TEST_F(PickTest, FindsTheLivingHalfOfALargePoolWhateverTheOrder) {
  for (const std::size_t size : {100U, 136U, 200U, 1000U}) {
    for (const bool in_one_piece : {true, false}) {  // a rack after the other, or in turn
      std::vector<Member> members(size);
      for (std::size_t i = 0; i < size; ++i) {
        members[i].open = in_one_piece ? i < size / 2 : i % 2 == 0;
      }
      set_members(members);
      for (const weir_policy policy :
           {WEIR_POLICY_PREQUAL, WEIR_POLICY_P2C, WEIR_POLICY_WEIGHTED_RANDOM,
            WEIR_POLICY_ROUND_ROBIN, WEIR_POLICY_LEAST_INFLIGHT}) {
        pool_.policy = policy;
        int missed = 0;
        for (int i = 0; i < 2000; ++i) {
          if (pick().backend == WEIR_NO_BACKEND) ++missed;
        }
        EXPECT_EQ(missed, 0) << size << " backends, policy " << policy;
      }
    }
  }
}

TEST_F(PickTest, ProbeTakesNobodysTurn) {
  set_members({{}, {.open = true}, {}, {.open = true}});
  pool_.policy = WEIR_POLICY_ROUND_ROBIN;
  EXPECT_EQ(pick(WEIR_PICK_PROBE).backend, WEIR_NO_BACKEND);
  EXPECT_EQ(pool_.turn, 0U);
}

TEST_F(PickTest, ProbeWantsABreakerWithATokenToGive) {
  set_members({{}, {.open = true}, {.open = true}});
  EXPECT_EQ(pick(WEIR_PICK_PROBE).backend, WEIR_NO_BACKEND);
  weir_breaker due{};
  due.state = WEIR_BREAKER_OPEN;
  due.until_ms = environment_.now_ms;
  environment_.backends[kFirstBackend + 2].breaker = weir_breaker_pack(&due);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(pick(WEIR_PICK_PROBE).backend, kFirstBackend + 2);
}

TEST(PickPool, IsMostlyOpenBelowHalf) {
  weir_pool pool{};
  const auto mostly_open = [&](std::uint32_t open, std::uint32_t members) {
    pool.open = open;
    pool.members = members;
    return weir_mostly_open(&pool) != 0;
  };
  EXPECT_FALSE(mostly_open(0, 0));
  EXPECT_FALSE(mostly_open(1, 2));
  EXPECT_TRUE(mostly_open(2, 3));
  EXPECT_TRUE(mostly_open(1, 1));
  EXPECT_FALSE(mostly_open(0, 1));
}

}  // namespace
}  // namespace weir::kernel
