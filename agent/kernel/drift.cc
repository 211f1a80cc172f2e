// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/drift.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace weir::kernel {
namespace {

/// Recounts of one census that have to show an error.
constexpr std::uint32_t kRecountsToShow = 2;

bool same_side(std::int64_t a, std::int64_t b) { return (a > 0 && b > 0) || (a < 0 && b < 0); }

std::int64_t nearer_to_zero(std::int64_t a, std::int64_t b) {
  return std::abs(a) < std::abs(b) ? a : b;
}

}  // namespace

std::int64_t DriftBounds::certain() const {
  // Crossed bounds: the gauge went wrong during the recount itself; wait for the next one.
  if (low > high) return 0;
  return low > 0 ? low : std::min<std::int64_t>(high, 0);
}

DriftBounds bounds(const GaugeRecount& recount) {
  const auto counted = static_cast<std::int64_t>(recount.counted);
  const auto entered = static_cast<std::int64_t>(recount.entered);
  return {static_cast<std::int64_t>(recount.after) - counted - entered,
          static_cast<std::int64_t>(recount.before) - counted + entered};
}

void DriftRule::add(const DriftBounds& recount) {
  const std::int64_t certain = recount.certain();
  if (certain == 0) {
    (recount.decided() ? right_ : undecided_) = true;
    return;
  }
  if (shown_ > 0 && !same_side(certain, least_)) right_ = true;
  least_ = shown_ == 0 ? certain : nearer_to_zero(certain, least_);
  ++shown_;
}

bool DriftRule::wants_more() const {
  if (right_) return false;
  return shown_ > 0 ? shown_ < kRecountsToShow : undecided_;
}

std::int64_t DriftRule::conclude() {
  const bool shown = shown_ >= kRecountsToShow && !right_;
  drift_ = shown ? least_ : 0;
  least_ = 0;
  shown_ = 0;
  right_ = undecided_ = false;
  if (!same_side(drift_, standing_)) {
    standing_ = drift_;
    return 0;
  }
  const std::int64_t wrong = nearer_to_zero(drift_, standing_);
  standing_ = drift_ - wrong;
  return -wrong;
}

}  // namespace weir::kernel
