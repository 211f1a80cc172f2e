// SPDX-License-Identifier: Apache-2.0
//
// One thread that calls functions at their time; shared by all who need to act at an instant and
// have no thread that is free then.
//
// Thread-safe. Functions run one after the other, outside the lock; they must not block and must
// not throw. The destructor calls none of those that are left. The clock must outlive it.
#pragma once

#include <compare>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "agent/base/clock.h"

namespace weir::schedule {

class TimerThread {
 public:
  /// Names one armed function; never names another one afterwards.
  struct Timer {
    TimePoint when;
    std::uint64_t number = 0;
    auto operator<=>(const Timer&) const = default;
  };

  explicit TimerThread(const Clock& clock);
  TimerThread(const TimerThread&) = delete;
  TimerThread& operator=(const TimerThread&) = delete;
  ~TimerThread();

  /// `call` runs once the clock says `when`, or soon if that is past.
  Timer arm(TimePoint when, std::function<void()> call);

  /// True: it will not run. False: it has run; if it was running, this has waited for its end,
  /// unless it was the function itself that called.
  bool cancel(const Timer& timer);

  /// As cancel(), but waits for nothing: on false it may be running still.
  bool disarm(const Timer& timer);

  /// Functions that are armed and have not begun to run.
  [[nodiscard]] std::size_t armed() const;

  /// Looks at the clock again: for clocks that jump.
  void wake();

 private:
  void run();

  const Clock& clock_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;   ///< thread: earlier timer, wake(), stopping_
  std::condition_variable finished_;  ///< cancel(): a function has returned
  // Guarded by mutex_.
  std::map<Timer, std::function<void()>> armed_;
  std::uint64_t next_number_ = 1;
  std::uint64_t running_ = 0;  ///< number of the function that runs; 0: none
  std::uint64_t wakes_ = 0;
  bool stopping_ = false;

  std::jthread thread_;  // last: runs while the rest lives
};

}  // namespace weir::schedule
