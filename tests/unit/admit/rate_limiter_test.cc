// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/rate_limiter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <tuple>

namespace weir::admit {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr TimePoint kStart{hours(1000)};

RateRule rule(std::string tenant, std::string model, std::optional<std::int32_t> level,
              double requests_per_second, double burst) {
  RateRule made;
  made.tenant = std::move(tenant);
  made.model = std::move(model);
  made.level = level;
  made.requests_per_second = requests_per_second;
  made.requests_burst = burst;
  return made;
}

RateRule token_rule(double tokens_per_second, double burst) {
  RateRule made;
  made.tokens_per_second = tokens_per_second;
  made.tokens_burst = burst;
  return made;
}

RateKey key(std::string_view tenant, std::string_view model = "m", std::int32_t level = 4) {
  return {name_hash(tenant), model.empty() ? std::nullopt : std::optional(name_hash(model)), level};
}

std::unique_ptr<RateLimiter> limiter(std::vector<RateRule> rules, std::size_t buckets = 1024) {
  auto made = RateLimiter::create({std::move(rules), buckets});
  EXPECT_TRUE(made.ok()) << made.error().message;
  return *std::move(made);
}

TEST(RateLimiter, WhatARuleLeavesOutHasABucketEach) {
  const auto limits = limiter({rule("", "", std::nullopt, 1, 1)});
  for (const char* tenant : {"a", "b"}) {
    for (const char* model : {"m", "n"}) {
      for (const std::int32_t level : {0, 7}) {
        EXPECT_FALSE(limits->charge(key(tenant, model, level), kStart));
        EXPECT_TRUE(limits->charge(key(tenant, model, level), kStart));
      }
    }
  }
  EXPECT_EQ(limits->reading(kStart).buckets, 8U);
  EXPECT_EQ(limits->reading(kStart + seconds(1)).buckets, 0U);
}

TEST(RateLimiter, ARuleHoldsForWhatItNamesOnly) {
  const auto limits = limiter({rule("a", "m", 3, 1, 1)});
  EXPECT_FALSE(limits->charge(key("a", "m", 3), kStart));
  EXPECT_TRUE(limits->charge(key("a", "m", 3), kStart));
  for (const RateKey& other : {key("b", "m", 3), key("a", "n", 3), key("a", "m", 4)}) {
    for (int i = 0; i < 5; ++i) EXPECT_FALSE(limits->charge(other, kStart));
  }
}

TEST(RateLimiter, TheLongestWaitOfAllThatRefuseIsTold) {
  const auto limits =
      limiter({rule("", "", std::nullopt, 2, 1), rule("a", "", std::nullopt, 0.5, 1),
               rule("", "m", std::nullopt, 4, 1)});
  EXPECT_FALSE(limits->charge(key("a"), kStart));
  const auto refused = limits->charge(key("a"), kStart);
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->rule, 1U);
  EXPECT_FALSE(refused->tokens);
  EXPECT_EQ(refused->wait, seconds(2));
  EXPECT_EQ(limits->rule(refused->rule).tenant, "a");
}

TEST(RateLimiter, NoneIsChargedWhenOneRefuses) {
  const auto limits =
      limiter({rule("", "", std::nullopt, 1, 3), rule("", "m", std::nullopt, 100, 1)});
  EXPECT_FALSE(limits->charge(key("a"), kStart));
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(limits->charge(key("a"), kStart));
  // The second bucket is full again, and the first has lost but one.
  EXPECT_FALSE(limits->charge(key("a"), kStart + milliseconds(10)));
  EXPECT_FALSE(limits->charge(key("a"), kStart + milliseconds(20)));
  EXPECT_TRUE(limits->charge(key("a"), kStart + milliseconds(30)));
}

TEST(RateLimiter, WithoutTheModelRulesWaitForIt) {
  const auto limits = limiter({rule("", "", std::nullopt, 1, 1)});
  EXPECT_FALSE(limits->charge(key("a", ""), kStart));
  EXPECT_FALSE(limits->charge(key("a", ""), kStart));
  EXPECT_FALSE(limits->settle(key("a", ""), key("a"), 5, kStart));
  EXPECT_TRUE(limits->settle(key("a", ""), key("a"), 5, kStart));
}

TEST(RateLimiter, SettlingMovesTheChargeToTheLevelOfTheBody) {
  const auto limits = limiter({rule("", "", std::nullopt, 1, 1)});
  EXPECT_FALSE(limits->charge(key("a", "m", 4), kStart));
  EXPECT_FALSE(limits->settle(key("a", "m", 4), key("a", "m", 2), 5, kStart));
  EXPECT_TRUE(limits->charge(key("a", "m", 2), kStart)) << "charged";
  EXPECT_FALSE(limits->charge(key("a", "m", 4), kStart)) << "given back";
}

TEST(RateLimiter, TokensAreChargedOnceTheyAreKnown) {
  const auto limits = limiter({token_rule(100, 1000)});
  EXPECT_FALSE(limits->charge(key("a"), kStart));
  EXPECT_FALSE(limits->settle(key("a"), key("a"), 900, kStart));
  EXPECT_FALSE(limits->charge(key("a"), kStart)) << "there are some";
  const auto refused = limits->settle(key("a"), key("a"), 300, kStart);
  ASSERT_TRUE(refused.has_value());
  EXPECT_TRUE(refused->tokens);
  EXPECT_EQ(refused->wait, seconds(2));
  EXPECT_FALSE(limits->settle(key("a"), key("a"), 100, kStart));
  EXPECT_TRUE(limits->charge(key("a"), kStart)) << "there are none: refused at the head";
  EXPECT_FALSE(limits->charge(key("a"), kStart + milliseconds(10)));
}

TEST(RateLimiter, MoreTokensThanABucketHoldsNeverCome) {
  const auto limits = limiter({token_rule(100, 1000), token_rule(1, 1)});
  const auto refused = limits->settle(key("a"), key("a"), 1001, kStart);
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->wait, std::nullopt);
}

TEST(RateLimiter, WithoutABurstALargeRequestComesOnceInAWhile) {
  RateRule by_rate;
  by_rate.tokens_per_second = 100;
  const auto limits = limiter({by_rate});
  ASSERT_FALSE(limits->charge(key("a"), kStart));
  EXPECT_FALSE(limits->settle(key("a"), key("a"), 130, kStart)) << "more than a second's";
  const auto refused = limits->charge(key("a"), kStart);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->wait, milliseconds(310)) << "the head is refused while the bucket owes";
  EXPECT_EQ(limits->reading(kStart + milliseconds(1300)).buckets, 0U);
  const TimePoint later = kStart + milliseconds(1300);
  ASSERT_FALSE(limits->charge(key("a"), later));
  const auto hopeless = limits->settle(key("a"), key("a"), 100.0 * 3602, later);
  ASSERT_TRUE(hopeless);
  EXPECT_EQ(hopeless->wait, std::nullopt) << "more than an hour's is a mistake";
}

TEST(RateLimiter, ARefusalForTokensGivesTheRequestBack) {
  RateRule both = rule("", "", std::nullopt, 1, 1);
  both.tokens_per_second = 10;
  both.tokens_burst = 10;
  const auto limits = limiter({both});
  EXPECT_FALSE(limits->charge(key("a"), kStart));
  EXPECT_TRUE(limits->settle(key("a"), key("a"), 11, kStart));
  EXPECT_FALSE(limits->charge(key("a"), kStart));
  EXPECT_FALSE(limits->settle(key("a"), key("a"), 10, kStart));
}

TEST(RateLimiter, InventedTenantsCannotGetPastItsBound) {
  const auto limits = limiter({rule("", "", std::nullopt, 1, 1), rule("vip", "m", 4, 1, 1)}, 64);
  int admitted = 0;
  for (int i = 0; i < 10'000; ++i) {
    if (!limits->charge(key("t" + std::to_string(i)), kStart)) ++admitted;
  }
  // 64 places and the shared one.
  EXPECT_LE(admitted, 65);
  EXPECT_GE(admitted, 40);  // some windows fill before others
  EXPECT_GT(limits->reading(kStart).spills, 9'000U);
  EXPECT_LE(limits->reading(kStart).buckets, 65U);
  // Full ones make room.
  const TimePoint later = kStart + seconds(1);
  EXPECT_FALSE(limits->charge(key("new"), later));
  EXPECT_TRUE(limits->charge(key("new"), later));
}

TEST(RateLimiter, OptionsAreCheckedWithFieldAndLimit) {
  RateRule bad = rule("", "", std::nullopt, 0, 1);
  const auto made = RateLimiter::create({{bad}, 1024});
  ASSERT_FALSE(made.ok());
  EXPECT_TRUE(made.error().message.starts_with("rate_limits[0].requests_per_second is 0"))
      << made.error().message;
  EXPECT_FALSE(RateLimiter::create({{}, 1000}).ok());
  EXPECT_FALSE(RateLimiter::create({std::vector<RateRule>(1025), 1024}).ok());
}

// Random traffic against levels that rise with time, one per rule and key.
TEST(RateLimiter, AgreesWithASimpleModel) {
  std::mt19937_64 random(11);
  const auto pick = [&](int count) { return std::uniform_int_distribution(0, count - 1)(random); };
  const std::vector<std::string> tenants = {"a", "b", "c"};
  const std::vector<std::string> models = {"m", "n"};
  int refusals = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<RateRule> rules;
    for (int i = 0; i < 5; ++i) {
      RateRule made;
      if (pick(2)) made.tenant = tenants[static_cast<std::size_t>(pick(3))];
      if (pick(2)) made.model = models[static_cast<std::size_t>(pick(2))];
      if (pick(3) == 0) made.level = pick(2);
      if (pick(4)) {
        made.requests_per_second = 1 + pick(20);
        made.requests_burst = 1 + pick(5);
      }
      if (pick(2)) {
        made.tokens_per_second = 10 + pick(200);
        made.tokens_burst = 50 + pick(200);
      }
      rules.push_back(made);
    }
    const auto limits = limiter(rules);
    using Where = std::tuple<std::size_t, std::uint64_t, std::uint64_t, std::int32_t>;
    struct Level {
      double requests, tokens;
      TimePoint at;
    };
    std::map<Where, Level> levels;
    TimePoint now = kStart;
    for (int step = 0; step < 600; ++step) {
      now += milliseconds(pick(40)) + std::chrono::nanoseconds(1 + pick(1000));
      const std::string& tenant = tenants[static_cast<std::size_t>(pick(3))];
      const std::string& model = models[static_cast<std::size_t>(pick(2))];
      const RateKey at = key(tenant, model, pick(2));
      const double tokens = 1 + pick(120);
      std::vector<std::pair<const RateRule*, Level*>> applying;
      bool close = false;
      bool expected = true;
      for (std::size_t i = 0; i < rules.size(); ++i) {
        const RateRule& one = rules[i];
        if (!one.tenant.empty() && one.tenant != tenant) continue;
        if (!one.model.empty() && one.model != model) continue;
        if (one.level && *one.level != at.level) continue;
        const double requests_burst = one.requests_burst.value_or(0);
        const double tokens_burst = one.tokens_burst.value_or(0);
        Level& level = levels
                           .try_emplace(Where{i, at.tenant, *at.model, at.level},
                                        Level{requests_burst, tokens_burst, now})
                           .first->second;
        const double gap = std::chrono::duration<double>(now - level.at).count();
        level.at = now;
        level.requests =
            std::min(requests_burst, level.requests + gap * one.requests_per_second.value_or(0));
        level.tokens =
            std::min(tokens_burst, level.tokens + gap * one.tokens_per_second.value_or(0));
        if (one.requests_per_second) {
          expected = expected && level.requests >= 1;
          close = close || std::abs(level.requests - 1) < 1e-4;
        }
        if (one.tokens_per_second) {
          expected = expected && level.tokens >= std::max(1.0, tokens);
          close =
              close || std::abs(level.tokens - tokens) < 1e-4 || std::abs(level.tokens - 1) < 1e-4;
        }
        applying.emplace_back(&one, &level);
      }
      if (close) continue;
      bool admitted = !limits->charge(at, now).has_value();
      if (admitted) admitted = !limits->settle(at, at, tokens, now).has_value();
      ASSERT_EQ(admitted, expected) << "round " << round << " step " << step;
      if (!admitted) ++refusals;
      for (auto& [one, level] : applying) {
        if (!admitted) continue;
        if (one->requests_per_second) level->requests -= 1;
        if (one->tokens_per_second) level->tokens -= tokens;
      }
    }
    EXPECT_EQ(limits->reading(now).spills, 0U);
    EXPECT_EQ(limits->reading(now + hours(1)).buckets, 0U);
  }
  EXPECT_GT(refusals, 500);
}

}  // namespace
}  // namespace weir::admit
