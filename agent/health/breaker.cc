// SPDX-License-Identifier: Apache-2.0
#include "agent/health/breaker.h"

#include <algorithm>
#include <cmath>

namespace weir::health {

std::string_view to_string(BreakerState state) {
  switch (state) {
    case BreakerState::kClosed:
      return "closed";
    case BreakerState::kOpen:
      return "open";
    case BreakerState::kHalfOpen:
      return "half_open";
  }
  return "unknown";
}

std::optional<Breaker::Change> Breaker::observe(const ConnectCounts& counts, TimePoint now,
                                                const Uniform& uniform) {
  const bool went_back =
      counts.failures < at_change_.failures || counts.established < at_change_.established;
  if (went_back) at_change_ = {};
  switch (state_) {
    case BreakerState::kClosed:
      if (counts.consecutive_failures < options_.open_after_failures) return std::nullopt;
      return open(counts, now, uniform);
    case BreakerState::kOpen:
      if (now < open_until_) return std::nullopt;
      return move_to(BreakerState::kHalfOpen, counts);
    case BreakerState::kHalfOpen:
      if (counts.failures > at_change_.failures) {
        ++relapses_;
        return open(counts, now, uniform);
      }
      if (counts.established == at_change_.established) return std::nullopt;
      relapses_ = 0;
      return move_to(BreakerState::kClosed, counts);
  }
  return std::nullopt;
}

Breaker::Change Breaker::open(const ConnectCounts& counts, TimePoint now, const Uniform& uniform) {
  // In double: doubling a Duration often enough would overflow before the cap is applied.
  const double wanted = std::ldexp(static_cast<double>(options_.open.count()),
                                   static_cast<int>(std::min(relapses_, 64U)));
  const double capped = std::min(wanted, static_cast<double>(options_.max_open.count()));
  const Duration open_for(
      static_cast<Duration::rep>(capped * (1 + options_.jitter_ratio * uniform())));
  Change change = move_to(BreakerState::kOpen, counts);
  open_until_ = now + open_for;
  change.open_for = open_for;
  return change;
}

Breaker::Change Breaker::move_to(BreakerState to, const ConnectCounts& counts) {
  const Change change{state_, to, counts.consecutive_failures, Duration{}};
  state_ = to;
  at_change_ = counts;
  return change;
}

}  // namespace weir::health
