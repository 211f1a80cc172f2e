// SPDX-License-Identifier: Apache-2.0
//
// A token bucket in one word: the instant at which it will be full again (the "generic cell rate
// algorithm" of ATM Forum TM 4.1). A bucket whose instant has passed is full, so a new one and one
// that was left alone for long are the same thing, and neither needs a clock tick.
//
// Thread-safe, without locks: one compare and exchange per charge.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "agent/base/clock.h"

namespace weir::admit {

/// How fast buckets fill and what they hold: shared by all buckets of a rule.
class BucketShape {
 public:
  /// `per_second` in 0.001..1e9, `burst` in 1..1e9. A burst of more than a year's tokens counts as
  /// a year's, so that instants fit their word.
  ///
  /// With a `most_owed`, a full bucket also gives to one that wants more than it holds, as long as
  /// what it then owes comes in within that time; the next must wait until it has.
  BucketShape(double per_second, double burst, Duration most_owed = Duration::zero());

 private:
  friend class TokenBucket;
  [[nodiscard]] std::int64_t cost_of(double tokens) const;

  double burst_;
  double most_at_once_;  ///< >= burst_
  double units_per_token_;
  std::int64_t capacity_;  ///< units that fill it
};

class TokenBucket {
 public:
  /// How long until `tokens` can be had: zero when at once, unset when never because the bucket
  /// holds fewer. Exact to the nanosecond, rounded up.
  [[nodiscard]] std::optional<Duration> wait(const BucketShape& shape, double tokens,
                                             TimePoint now) const;

  /// Takes them if they are there.
  [[nodiscard]] bool take(const BucketShape& shape, double tokens, TimePoint now);

  /// Undoes one take(). The bucket is then as if that had not been; unless it would have run over
  /// meanwhile, which is not remembered: then up to `tokens` more are there, never more than it
  /// holds. What was taken and not given back stays within the burst and the rate all the same,
  /// counted from the first take.
  void give_back(const BucketShape& shape, double tokens);

  [[nodiscard]] bool full(TimePoint now) const;

 private:
  std::atomic<std::int64_t> full_at_{0};  ///< in units since the clock's epoch
};

}  // namespace weir::admit
