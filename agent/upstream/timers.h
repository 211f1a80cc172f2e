// SPDX-License-Identifier: Apache-2.0
//
// The seam for things that happen later: production has a thread, tests a clock of their own.
//
// Thread-safe: implementations are callable from any thread, their own included.
#pragma once

#include <cstdint>
#include <functional>

#include "agent/base/clock.h"

namespace weir::upstream {

class Timers {
 public:
  using Id = std::uint64_t;

  virtual ~Timers() = default;
  /// Calls `action` once, at `at` or soon after, on a thread of the timers and outside their locks.
  /// It must not block.
  virtual Id arm(TimePoint at, std::function<void()> action) = 0;
  /// What has not begun yet will not be called; what has, goes on. Does not wait.
  virtual void cancel(Id id) = 0;
};

}  // namespace weir::upstream
