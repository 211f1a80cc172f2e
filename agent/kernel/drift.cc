// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/drift.h"

#include <algorithm>
#include <cstdlib>

namespace weir::kernel {
namespace {

bool same_side(std::int64_t a, std::int64_t b) { return (a > 0 && b > 0) || (a < 0 && b < 0); }

}  // namespace

std::int64_t DriftBounds::certain() const {
  if (low > high) return 0;
  return low > 0 ? low : std::min<std::int64_t>(high, 0);
}

DriftBounds bounds(const GaugeRecount& recount) {
  const auto counted = static_cast<std::int64_t>(recount.counted);
  const auto entered = static_cast<std::int64_t>(recount.entered);
  return {static_cast<std::int64_t>(recount.after) - counted - entered,
          static_cast<std::int64_t>(recount.before) - counted + entered};
}

void DriftRule::glance(const DriftBounds& seen) {
  // Crossed bounds, too, are worth a closer look.
  suspect_ = seen.certain() != 0 || seen.low > seen.high;
  right_ = !suspect_ && seen.decided();
}

void DriftRule::examine(const DriftBounds& proven) {
  proven_ = examined_ ? DriftBounds{std::max(proven_.low, proven.low),
                                    std::min(proven_.high, proven.high)}
                      : proven;
  examined_ = true;
  right_ = right_ || (proven_.decided() && proven_.certain() == 0);
}

bool DriftRule::suspects() const {
  return suspect_ && !right_ && !(examined_ && proven_.certain() != 0);
}

std::int64_t DriftRule::conclude() {
  drift_ = examined_ && !right_ ? proven_.certain() : 0;
  if (right_) standing_ = 0;
  suspect_ = right_ = examined_ = false;
  if (drift_ == 0) return 0;
  if (!same_side(drift_, standing_)) {
    standing_ = drift_;
    return 0;
  }
  const std::int64_t wrong = std::abs(drift_) < std::abs(standing_) ? drift_ : standing_;
  standing_ = drift_ - wrong;
  return -wrong;
}

}  // namespace weir::kernel
