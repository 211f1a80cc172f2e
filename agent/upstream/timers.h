// SPDX-License-Identifier: Apache-2.0
//
// The seam for things that happen later: production has a thread, tests a clock of their own.
//
// Thread-safe: implementations are callable from any thread, their own included.
#pragma once

#include <functional>
#include <utility>

#include "agent/base/clock.h"
#include "agent/schedule/timer.h"

namespace weir::upstream {

class Timers {
 public:
  using Id = schedule::TimerThread::Timer;

  virtual ~Timers() = default;
  /// Calls `action` once, at `at` or soon after, outside the locks of the timers. It must not
  /// block.
  virtual Id arm(TimePoint at, std::function<void()> action) = 0;
  /// What has not begun yet will not be called. What has may be waited for: not to be called with a
  /// lock that the action takes.
  virtual void cancel(const Id& id) = 0;
};

/// On a thread that others may use as well, and that must outlive this.
class ThreadTimers final : public Timers {
 public:
  explicit ThreadTimers(schedule::TimerThread& thread) : thread_(thread) {}
  Id arm(TimePoint at, std::function<void()> action) override {
    return thread_.arm(at, std::move(action));
  }
  void cancel(const Id& id) override { thread_.cancel(id); }

 private:
  schedule::TimerThread& thread_;
};

}  // namespace weir::upstream
