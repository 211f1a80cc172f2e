// SPDX-License-Identifier: Apache-2.0
//
// How long to wait before an attempt that follows a failed one: exponential, with full jitter. The
// wait is drawn from zero to a bound that doubles with each failure, so that requests which failed
// together do not come back together.
//
// Thread-safe. Cannot fail.
#pragma once

#include <cstdint>
#include <mutex>
#include <random>

#include "agent/base/clock.h"

namespace weir::upstream {

/// The longest wait after `failures` failed attempts: `base` after the first, doubled by each
/// further one. Precondition: failures >= 1, base > 0. Never beyond an hour.
[[nodiscard]] Duration backoff_bound(Duration base, std::uint32_t failures);

class Backoff {
 public:
  explicit Backoff(std::uint64_t seed) : random_(seed) {}

  /// Uniform over [0, backoff_bound(base, failures)].
  [[nodiscard]] Duration draw(Duration base, std::uint32_t failures);

 private:
  std::mutex mutex_;
  std::mt19937_64 random_;  // guarded by mutex_
};

}  // namespace weir::upstream
