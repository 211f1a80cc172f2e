// SPDX-License-Identifier: Apache-2.0
//
// Waiting without sleep, for what another CPU is about to do.
//
// Thread-safe.
#pragma once

#include <mutex>

namespace weir {

/// Between two looks at what another CPU writes.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Locks `mutex`, which nobody holds for more than a few microseconds: looks again for about as
/// long before it sleeps. Sleeping and being woken take both threads as long as that.
[[nodiscard]] inline std::unique_lock<std::mutex> lock_spinning(std::mutex& mutex) {
  constexpr int kLooks = 64;
  constexpr int kPausesPerLook = 8;  // each look takes the cache line away from who holds the lock
  for (int look = 0; look < kLooks; ++look) {
    if (mutex.try_lock()) return {mutex, std::adopt_lock};
    for (int pause = 0; pause < kPausesPerLook; ++pause) relax();
  }
  return std::unique_lock(mutex);
}

}  // namespace weir
