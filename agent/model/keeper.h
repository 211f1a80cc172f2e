// SPDX-License-Identifier: Apache-2.0
//
// The thread that looks after the models: runs what others leave for it, and looks whenever it is
// time to, so that neither an I/O thread nor an engine has to wait for a disk or a thread's end.
//
// Thread-safe. `look` and the jobs run one after the other on its thread, outside its lock; they
// may block, and must not throw. The destructor stops it; jobs that are left are dropped. The clock
// must outlive it.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "agent/base/clock.h"

namespace weir::model {

class Keeper {
 public:
  /// Jobs that may wait.
  static constexpr std::size_t kMostJobs = 1024;

  /// `look` says when it wants to look again at the latest; unset: when it is woken.
  Keeper(const Clock& clock, std::function<std::optional<TimePoint>()> look);
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  ~Keeper();

  /// False: too many are waiting; it is not run.
  bool post(std::function<void()> job);
  /// Look now.
  void wake();
  /// Waits for the one that runs, and runs nothing any more; post() and wake() still may be called.
  void stop();

 private:
  void run();

  const Clock& clock_;
  const std::function<std::optional<TimePoint>()> look_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<std::function<void()>> jobs_;
  bool woken_ = true;
  bool stopping_ = false;

  std::jthread thread_;  // last: runs while the rest lives
};

}  // namespace weir::model
