// SPDX-License-Identifier: Apache-2.0
//
// Lets a thread that hands in work piece by piece put off waking others for it until it has handed
// in all it has at hand: whoever is woken for the first piece takes that one alone, and then both
// want the same lock for each of the others.
//
// Thread-safety: a WakeLater belongs to the thread that made it, of which only the latest counts;
// wake() may be called by any.
#pragma once

#include <functional>
#include <utility>

namespace weir::schedule {

class WakeLater {
 public:
  using Wake = std::function<void()>;
  /// Takes a wake-up that must be run soon, whatever comes next.
  using PutOff = std::function<void(Wake)>;

  /// From now on, and as long as it lives, wake() on this thread hands over to `put_off`.
  explicit WakeLater(PutOff put_off) : put_off_(std::move(put_off)) { of_this_thread = this; }
  ~WakeLater() { of_this_thread = nullptr; }
  WakeLater(const WakeLater&) = delete;
  WakeLater& operator=(const WakeLater&) = delete;

  /// Runs `wake`, at once unless this thread puts it off.
  static void wake(Wake wake) {
    if (of_this_thread == nullptr) return wake();
    of_this_thread->put_off_(std::move(wake));
  }

 private:
  static thread_local WakeLater* of_this_thread;

  const PutOff put_off_;
};

inline thread_local WakeLater* WakeLater::of_this_thread = nullptr;

}  // namespace weir::schedule
