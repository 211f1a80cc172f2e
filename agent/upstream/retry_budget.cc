// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/retry_budget.h"

#include <cmath>

namespace weir::upstream {
namespace {

// Sums of decayed weights are not exact; the fifth request at 20 % shall pay for a retry.
constexpr double kRounding = 1e-6;

}  // namespace

RetryBudget::RetryBudget(double percent, const Clock& clock)
    : share_(percent / 100),
      floor_(percent > 0 ? kFloorPerSecond * std::chrono::duration<double>(kWindow).count() : 0),
      clock_(clock),
      counted_at_(clock.now()) {}

void RetryBudget::deposit() {
  const std::lock_guard lock(mutex_);
  decay_locked();
  requests_ += 1;
}

bool RetryBudget::withdraw() {
  const std::lock_guard lock(mutex_);
  decay_locked();
  if (retries_ + 1 > share_ * requests_ + floor_ + kRounding) return false;
  retries_ += 1;
  return true;
}

void RetryBudget::decay_locked() {
  const TimePoint now = clock_.now();
  if (now <= counted_at_) return;
  const double age = std::chrono::duration<double>(now - counted_at_).count();
  const double kept = std::exp(-age / std::chrono::duration<double>(kWindow).count());
  requests_ *= kept;
  retries_ *= kept;
  counted_at_ = now;
}

}  // namespace weir::upstream
