// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/rate_limiter.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

namespace weir::admit {
namespace {

constexpr std::size_t kMaxRules = 1024;
// A key lies in one of this many slots in a row, two cache lines of four or five.
constexpr std::size_t kWindow = 16;

// Finalizer of MurmurHash3: every input bit moves every output bit.
std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 33U)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33U)) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33U);
}

// Who limits tokens by their rate alone means the mean, not the size of a request: one that asks
// for more than a second's comes when the bucket is full. The bound keeps one mistaken max_tokens
// from shutting a tenant out for days.
constexpr std::chrono::hours kMostOwed{1};

std::optional<BucketShape> shape_of(std::optional<double> per_second, std::optional<double> burst,
                                    Duration most_owed = Duration::zero()) {
  if (!per_second.has_value()) return std::nullopt;
  if (burst.has_value()) return BucketShape(*per_second, *burst);
  return BucketShape(*per_second, std::max(1.0, *per_second), most_owed);
}

Status out_of_range(std::size_t rule, std::string_view field, double value, double min,
                    double max) {
  return make_error(Code::kInvalidArgument, "rate_limits[" + std::to_string(rule) + "]." +
                                                std::string(field) + " is " +
                                                std::to_string(value) + "; it must be in " +
                                                std::to_string(min) + ".." + std::to_string(max));
}

Status check(std::size_t index, const RateRule& rule) {
  struct Range {
    std::string_view field;
    std::optional<double> value;
    double min, max;
  };
  for (const Range& range : {Range{"requests_per_second", rule.requests_per_second, 0.001, 1e6},
                             Range{"requests_burst", rule.requests_burst, 1, 1e6},
                             Range{"tokens_per_second", rule.tokens_per_second, 0.001, 1e9},
                             Range{"tokens_burst", rule.tokens_burst, 1, 1e9}}) {
    if (!range.value.has_value()) continue;
    if (!(*range.value >= range.min && *range.value <= range.max)) {
      return out_of_range(index, range.field, *range.value, range.min, range.max);
    }
  }
  return {};
}

/// Keeps the longest wait; "never" is the longest of all.
void note(std::optional<RateRefusal>& worst, std::size_t rule, bool tokens,
          std::optional<Duration> wait) {
  if (wait == Duration::zero()) return;
  const bool longer =
      !worst.has_value() || (worst->wait.has_value() && (!wait || *wait > *worst->wait));
  if (longer) worst = RateRefusal{rule, tokens, wait};
}

std::optional<Duration> wait_in(const TokenBucket* bucket, const BucketShape& shape, double tokens,
                                TimePoint now) {
  static const TokenBucket kFull;
  return (bucket != nullptr ? *bucket : kFull).wait(shape, tokens, now);
}

}  // namespace

std::uint64_t name_hash(std::string_view name) {
  return mixed(std::hash<std::string_view>{}(name));
}

Result<std::unique_ptr<RateLimiter>> RateLimiter::create(Options options) {
  if (options.rules.size() > kMaxRules) {
    return make_error(Code::kInvalidArgument, std::to_string(options.rules.size()) +
                                                  " rate_limits are more than " +
                                                  std::to_string(kMaxRules));
  }
  if (options.max_buckets < kWindow || !std::has_single_bit(options.max_buckets)) {
    return make_error(Code::kInvalidArgument,
                      "max_buckets is " + std::to_string(options.max_buckets) +
                          "; it must be a power of two of at least " + std::to_string(kWindow));
  }
  std::vector<Rule> rules;
  bool needs_table = false;
  for (std::size_t i = 0; i < options.rules.size(); ++i) {
    RateRule& given = options.rules[i];
    if (Status status = check(i, given); !status) return std::move(status).error();
    Rule rule;
    if (!given.model.empty()) rule.model = name_hash(given.model);
    rule.requests = shape_of(given.requests_per_second, given.requests_burst);
    rule.tokens = shape_of(given.tokens_per_second, given.tokens_burst, kMostOwed);
    rule.fixed = !given.tenant.empty() && !given.model.empty() && given.level.has_value();
    rule.own = std::make_unique<Pair>();
    rule.given = std::move(given);
    needs_table = needs_table || !rule.fixed;
    rules.push_back(std::move(rule));
  }
  return std::unique_ptr<RateLimiter>(
      new RateLimiter(std::move(rules), needs_table ? options.max_buckets : 0));
}

RateLimiter::RateLimiter(std::vector<Rule> rules, std::size_t buckets)
    : rules_(std::move(rules)),
      slots_count_(buckets),
      slots_(buckets > 0 ? std::make_unique<Slot[]>(buckets) : nullptr) {
  for (std::size_t i = 0; i < rules_.size(); ++i) {
    const std::string& tenant = rules_[i].given.tenant;
    (tenant.empty() ? any_tenant_ : by_tenant_[name_hash(tenant)]).push_back(i);
  }
}

template <typename Visit>
void RateLimiter::each_rule(std::uint64_t tenant, Visit visit) const {
  for (const std::size_t rule : any_tenant_) {
    if (!visit(rule)) return;
  }
  const auto own = by_tenant_.find(tenant);
  if (own == by_tenant_.end()) return;
  for (const std::size_t rule : own->second) {
    if (!visit(rule)) return;
  }
}

bool RateLimiter::applies(const Rule& rule, const RateKey& key) {
  if (!key.model.has_value()) return false;
  if (rule.model.has_value() && *rule.model != *key.model) return false;
  return !rule.given.level.has_value() || *rule.given.level == key.level;
}

std::uint64_t RateLimiter::slot_key(std::size_t rule, const RateKey& key) const {
  std::uint64_t hash = mixed(rule + 1) ^ key.tenant;
  hash = mixed(hash) ^ *key.model;
  hash = mixed(hash) ^ static_cast<std::uint64_t>(key.level);
  return std::max<std::uint64_t>(mixed(hash), 1);
}

RateLimiter::Pair* RateLimiter::find(std::size_t rule, const RateKey& key) {
  if (rules_[rule].fixed) return rules_[rule].own.get();
  const std::uint64_t wanted = slot_key(rule, key);
  for (std::size_t i = 0; i < kWindow; ++i) {
    Slot& slot = slots_[(wanted + i) & (slots_count_ - 1)];
    const std::uint64_t found = slot.key.load(std::memory_order_relaxed);
    if (found == wanted) return &slot.pair;
    if (found == 0) break;  // slots are never given up, only taken over
  }
  return nullptr;
}

// Two threads that make the same key at once take the same slot, as both go by the same order; when
// a bucket fills up between their looks they may take two, and the key has both for a while. A
// charge that meets a takeover goes to the new key: one request too many or too few.
RateLimiter::Pair& RateLimiter::find_or_make(std::size_t rule, const RateKey& key, TimePoint now) {
  const std::uint64_t wanted = slot_key(rule, key);
  for (;;) {  // each further round: another thread took the slot
    if (Pair* const found = find(rule, key)) return *found;
    Slot* place = nullptr;
    std::uint64_t held = 0;
    for (std::size_t i = 0; i < kWindow && place == nullptr; ++i) {
      Slot& slot = slots_[(wanted + i) & (slots_count_ - 1)];
      held = slot.key.load(std::memory_order_relaxed);
      const bool full = slot.pair.requests.full(now) && slot.pair.tokens.full(now);
      if (held == 0 || full) place = &slot;
    }
    if (place == nullptr) {
      spills_.fetch_add(1, std::memory_order_relaxed);
      return *rules_[rule].own;
    }
    if (place->key.compare_exchange_strong(held, wanted, std::memory_order_relaxed)) {
      return place->pair;
    }
  }
}

void RateLimiter::give_back_request(std::size_t rule, const RateKey& key) {
  if (!rules_[rule].requests.has_value()) return;
  // Without a place of its own it was charged to the spill.
  Pair* const pair = find(rule, key);
  (pair != nullptr ? *pair : *rules_[rule].own).requests.give_back(*rules_[rule].requests, 1);
}

std::optional<RateRefusal> RateLimiter::charge(const RateKey& key, TimePoint now) {
  std::optional<RateRefusal> worst;
  each_rule(key.tenant, [&](std::size_t i) {
    const Rule& rule = rules_[i];
    if (!applies(rule, key)) return true;
    Pair* const pair = find(i, key);
    if (rule.requests.has_value()) {
      note(worst, i, false, wait_in(pair ? &pair->requests : nullptr, *rule.requests, 1, now));
    }
    if (rule.tokens.has_value()) {
      note(worst, i, true, wait_in(pair ? &pair->tokens : nullptr, *rule.tokens, 1, now));
    }
    return true;
  });
  if (worst.has_value()) return worst;
  each_rule(key.tenant, [&](std::size_t i) {
    const Rule& rule = rules_[i];
    if (!rule.requests.has_value() || !applies(rule, key)) return true;
    Pair& pair = find_or_make(i, key, now);
    if (pair.requests.take(*rule.requests, 1, now)) return true;
    note(worst, i, false, pair.requests.wait(*rule.requests, 1, now));
    // Enough again by now: it would have been let in a moment later.
    if (!worst.has_value()) worst = RateRefusal{i, false, Duration(1)};
    return false;
  });
  if (!worst.has_value()) return std::nullopt;
  each_rule(key.tenant, [&](std::size_t i) {
    if (i == worst->rule) return false;
    if (applies(rules_[i], key)) give_back_request(i, key);
    return true;
  });
  return worst;
}

std::optional<RateRefusal> RateLimiter::settle(const RateKey& charged, const RateKey& key,
                                               double tokens, TimePoint now) {
  // The request was charged to other buckets: those give it back, and what is known now charges.
  if (charged != key) {
    each_rule(charged.tenant, [&](std::size_t i) {
      if (applies(rules_[i], charged)) give_back_request(i, charged);
      return true;
    });
    if (auto refused = charge(key, now)) return refused;
  }
  std::optional<RateRefusal> worst;
  each_rule(key.tenant, [&](std::size_t i) {
    const Rule& rule = rules_[i];
    if (!rule.tokens.has_value() || !applies(rule, key)) return true;
    Pair* const pair = find(i, key);
    note(worst, i, true, wait_in(pair ? &pair->tokens : nullptr, *rule.tokens, tokens, now));
    return true;
  });
  std::optional<std::size_t> stopped_at;
  if (!worst.has_value()) {
    each_rule(key.tenant, [&](std::size_t i) {
      const Rule& rule = rules_[i];
      if (!rule.tokens.has_value() || !applies(rule, key)) return true;
      Pair& pair = find_or_make(i, key, now);
      if (pair.tokens.take(*rule.tokens, tokens, now)) return true;
      stopped_at = i;
      note(worst, i, true, pair.tokens.wait(*rule.tokens, tokens, now));
      if (!worst.has_value()) worst = RateRefusal{i, true, Duration(1)};
      return false;
    });
  }
  if (!worst.has_value()) return std::nullopt;
  bool took_tokens = stopped_at.has_value();
  each_rule(key.tenant, [&](std::size_t i) {
    const Rule& rule = rules_[i];
    if (i == stopped_at) took_tokens = false;
    if (!applies(rule, key)) return true;
    if (took_tokens && rule.tokens.has_value()) {
      Pair* const pair = find(i, key);
      (pair != nullptr ? *pair : *rule.own).tokens.give_back(*rule.tokens, tokens);
    }
    give_back_request(i, key);
    return true;
  });
  return worst;
}

RateLimiter::Reading RateLimiter::reading(TimePoint now) const {
  Reading reading;
  reading.spills = spills_.load(std::memory_order_relaxed);
  const auto count = [&](const Pair& pair) {
    if (!pair.requests.full(now) || !pair.tokens.full(now)) ++reading.buckets;
  };
  for (const Rule& rule : rules_) count(*rule.own);
  for (std::size_t i = 0; i < slots_count_; ++i) {
    if (slots_[i].key.load(std::memory_order_relaxed) != 0) count(slots_[i].pair);
  }
  return reading;
}

}  // namespace weir::admit
