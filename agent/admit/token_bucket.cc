// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/token_bucket.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace weir::admit {
namespace {

// Sixteenths of a nanosecond: a billion tokens a second cost 16 each, so that rounding stays below
// 3 %, and 2^63 of them are 18 years, which is longer than a host stays up.
constexpr std::int64_t kUnitsPerNs = 16;
constexpr double kUnitsPerSecond = 1e9 * static_cast<double>(kUnitsPerNs);
constexpr double kMaxCapacity = kUnitsPerSecond * 365 * 24 * 3600;

std::int64_t units(TimePoint time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count() * kUnitsPerNs;
}

}  // namespace

BucketShape::BucketShape(double per_second, double burst, Duration most_owed)
    : burst_(burst),
      most_at_once_(burst + per_second * std::chrono::duration<double>(most_owed).count()),
      units_per_token_(kUnitsPerSecond / per_second),
      capacity_(std::llround(std::min(burst * units_per_token_, kMaxCapacity))) {}

// Never more than the capacity for what the bucket holds: rounding must not turn "just enough"
// into "never".
std::int64_t BucketShape::cost_of(double tokens) const {
  const std::int64_t cost = std::llround(std::min(tokens * units_per_token_, kMaxCapacity));
  return tokens > burst_ ? cost : std::min(cost, capacity_);
}

std::optional<Duration> TokenBucket::wait(const BucketShape& shape, double tokens,
                                          TimePoint now) const {
  if (tokens > shape.most_at_once_) return std::nullopt;
  const std::int64_t full_at = std::max(full_at_.load(std::memory_order_relaxed), units(now));
  const std::int64_t missing =
      full_at - units(now) + std::min(shape.cost_of(tokens), shape.capacity_) - shape.capacity_;
  if (missing <= 0) return Duration::zero();
  return std::chrono::nanoseconds((missing + kUnitsPerNs - 1) / kUnitsPerNs);
}

bool TokenBucket::take(const BucketShape& shape, double tokens, TimePoint now) {
  if (tokens > shape.most_at_once_) return false;
  const std::int64_t cost = shape.cost_of(tokens);
  std::int64_t full_at = full_at_.load(std::memory_order_relaxed);
  for (;;) {  // each further round: another thread took or gave
    const std::int64_t from = std::max(full_at, units(now));
    if (from - units(now) + std::min(cost, shape.capacity_) > shape.capacity_) return false;
    if (full_at_.compare_exchange_weak(full_at, from + cost, std::memory_order_relaxed))
      return true;
  }
}

void TokenBucket::give_back(const BucketShape& shape, double tokens) {
  full_at_.fetch_sub(shape.cost_of(tokens), std::memory_order_relaxed);
}

bool TokenBucket::full(TimePoint now) const {
  return full_at_.load(std::memory_order_relaxed) <= units(now);
}

}  // namespace weir::admit
