// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/backoff.h"

#include <algorithm>
#include <chrono>

namespace weir::upstream {

Duration backoff_bound(Duration base, std::uint32_t failures) {
  constexpr Duration kLongest = std::chrono::hours(1);
  Duration bound = std::min(base, kLongest);
  for (std::uint32_t i = 1; i < failures && bound < kLongest; ++i) {
    bound = std::min(bound * 2, kLongest);
  }
  return bound;
}

Duration Backoff::draw(Duration base, std::uint32_t failures) {
  std::uniform_int_distribution<Duration::rep> wait(0, backoff_bound(base, failures).count());
  const std::lock_guard lock(mutex_);
  return Duration(wait(random_));
}

}  // namespace weir::upstream
