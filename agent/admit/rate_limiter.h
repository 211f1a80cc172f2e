// SPDX-License-Identifier: Apache-2.0
//
// Rate limits by tenant, model and level. A rule that leaves one of them out holds for each one,
// and each has buckets of its own. Every rule that applies must agree; when one refuses, none is
// charged.
//
// The number of buckets is bounded. A new one takes the place of one that is full, which tells
// nothing that a new one would not; where there is none, all keys without a place share one bucket
// of their rule ("spill"), so that limits hold under a flood of invented tenants.
//
// Thread-safe, without locks. Charges of two rules are not one step: a request that another rule
// refuses holds the first one's tokens for an instant, and another may be refused in between.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "agent/admit/token_bucket.h"
#include "agent/base/clock.h"
#include "agent/base/result.h"

namespace weir::admit {

/// Ranges are those of weir.v1.RateLimit.
struct RateRule {
  std::string tenant;                 ///< empty: each
  std::string model;                  ///< empty: each
  std::optional<std::int32_t> level;  ///< unset: each
  std::optional<double> requests_per_second;
  std::optional<double> requests_burst;  ///< unset: what one second brings, at least 1
  std::optional<double> tokens_per_second;
  /// Unset: what one second brings, and a full bucket also lets one request in that has up to an
  /// hour's more; the next waits until those have come.
  std::optional<double> tokens_burst;
};

/// Whose request it is. Names by their hash, so that nothing is copied per request.
struct RateKey {
  std::uint64_t tenant = 0;
  std::optional<std::uint64_t> model;  ///< unset: not known yet
  std::int32_t level = 0;
  bool operator==(const RateKey&) const = default;
};

[[nodiscard]] std::uint64_t name_hash(std::string_view name);

struct RateRefusal {
  std::size_t rule = 0;  ///< the one that wants the longest wait
  bool tokens = false;   ///< whether tokens lack, or requests
  /// Until all rules agree, if nobody else takes anything; unset: never, the request has more
  /// tokens than a bucket ever gives at once.
  std::optional<Duration> wait;
};

class RateLimiter {
 public:
  struct Options {
    std::vector<RateRule> rules;       ///< at most 1024
    std::size_t max_buckets = 65'536;  ///< for rules that leave something out; a power of two
  };
  static Result<std::unique_ptr<RateLimiter>> create(Options options);

  /// From the head of a request: charges one request. Rules that need the model and do not know it
  /// wait for settle(). Of tokens only looks whether there is any.
  [[nodiscard]] std::optional<RateRefusal> charge(const RateKey& key, TimePoint now);

  /// Once all is known: charges `tokens`, and moves the charge for the request where `key` differs
  /// from `charged`, which charge() has let in. On refusal the charge for the request is given
  /// back too.
  [[nodiscard]] std::optional<RateRefusal> settle(const RateKey& charged, const RateKey& key,
                                                  double tokens, TimePoint now);

  [[nodiscard]] const RateRule& rule(std::size_t index) const { return rules_[index].given; }
  [[nodiscard]] bool empty() const { return rules_.empty(); }

  struct Reading {
    std::uint64_t buckets = 0;  ///< in use, full ones aside
    std::uint64_t spills = 0;   ///< charges that found no bucket of their own
  };
  [[nodiscard]] Reading reading(TimePoint now) const;

 private:
  struct Pair {
    TokenBucket requests;
    TokenBucket tokens;
  };
  struct Slot {
    std::atomic<std::uint64_t> key{0};  ///< 0: never used
    Pair pair;
  };
  struct Rule {
    RateRule given;
    std::optional<std::uint64_t> model;
    std::optional<BucketShape> requests;
    std::optional<BucketShape> tokens;
    bool fixed = false;         ///< names all three: needs no place in the table
    std::unique_ptr<Pair> own;  ///< of a fixed rule the bucket, of another one the spill
  };

  RateLimiter(std::vector<Rule> rules, std::size_t buckets);

  [[nodiscard]] static bool applies(const Rule& rule, const RateKey& key);
  [[nodiscard]] std::uint64_t slot_key(std::size_t rule, const RateKey& key) const;
  /// Null: no such bucket, which means that it is full.
  [[nodiscard]] Pair* find(std::size_t rule, const RateKey& key);
  [[nodiscard]] Pair& find_or_make(std::size_t rule, const RateKey& key, TimePoint now);
  void give_back_request(std::size_t rule, const RateKey& key);

  /// Calls `visit(index)` for each rule that may concern the tenant, until it returns false.
  template <typename Visit>
  void each_rule(std::uint64_t tenant, Visit visit) const;

  const std::vector<Rule> rules_;
  std::vector<std::size_t> any_tenant_;  ///< indexes of rules_
  std::unordered_map<std::uint64_t, std::vector<std::size_t>> by_tenant_;
  const std::size_t slots_count_;
  const std::unique_ptr<Slot[]> slots_;
  std::atomic<std::uint64_t> spills_{0};
};

}  // namespace weir::admit
