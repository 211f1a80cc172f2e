// SPDX-License-Identifier: Apache-2.0
//
// Where one worker sleeps until it is woken: a futex word with one wake-up kept, so that a wake()
// before its wait() is not lost.
//
// Thread-safe: wait() by one thread, wake() by any. Wake-ups do not add up; there is at most one
// under way at a time (IdleWorkers takes a worker off its list before it wakes it).
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>

#include "agent/base/clock.h"

namespace weir::schedule {

class WorkerParker {
 public:
  /// Sleeps until woken; false: `timeout` was over first. Unset: no end.
  [[nodiscard]] bool wait(std::optional<Duration> timeout);

  void wake();

 private:
  static constexpr std::uint32_t kAwake = 0;
  static constexpr std::uint32_t kAsleep = 1;
  static constexpr std::uint32_t kWoken = 2;  ///< and has not noticed yet

  std::atomic<std::uint32_t> state_{kAwake};
};

/// What the workers stand on in the agent (IdleWorkers says what a platform is).
struct WorkerPlatform {
  template <typename T>
  using Atomic = std::atomic<T>;
  using Mutex = std::mutex;
  using Parker = WorkerParker;
  static void fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
};

}  // namespace weir::schedule
