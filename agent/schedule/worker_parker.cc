// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/worker_parker.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <ctime>

namespace weir::schedule {
namespace {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t), "futex(2) wants a word");

/// Sleeps while `word` is `expected`; returns for any reason.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected,
                std::optional<Duration> timeout) {
  timespec relative{};
  if (timeout) {
    const auto left = std::max(*timeout, Duration::zero());
    const auto whole = std::chrono::duration_cast<std::chrono::seconds>(left);
    relative.tv_sec = whole.count();
    relative.tv_nsec = (left - whole) / std::chrono::nanoseconds(1);
  }
  ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, timeout ? &relative : nullptr, nullptr,
            0);
}

}  // namespace

bool WorkerParker::wait(std::optional<Duration> timeout) {
  const TimePoint end = timeout ? std::chrono::steady_clock::now() + *timeout : TimePoint::max();
  for (;;) {
    std::uint32_t seen = kWoken;
    if (state_.compare_exchange_strong(seen, kAwake, std::memory_order_acquire)) {
      return true;
    }
    if (timeout) {
      const TimePoint now = std::chrono::steady_clock::now();
      if (now >= end) {
        seen = kAsleep;
        // Else woken in this very moment.
        if (state_.compare_exchange_strong(seen, kAwake) || seen == kAwake) {
          return false;
        }
        continue;
      }
      timeout = end - now;
    }
    seen = kAwake;
    if (state_.compare_exchange_strong(seen, kAsleep) || seen == kAsleep) {
      futex_wait(state_, kAsleep, timeout);
    }
  }
}

void WorkerParker::wake() {
  if (state_.exchange(kWoken, std::memory_order_release) == kAsleep) {
    ::syscall(SYS_futex, &state_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
}

}  // namespace weir::schedule
