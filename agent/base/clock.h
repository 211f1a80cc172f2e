// SPDX-License-Identifier: Apache-2.0
//
// The seam for time. Everything that waits, ages or measures takes a Clock, so that tests can move
// time themselves (tests/fixtures/fake_clock.h).
//
// Thread-safe: implementations are callable from any thread.
#pragma once

#include <chrono>

namespace weir {

/// CLOCK_MONOTONIC: the same time base as bpf_ktime_get_ns(), so kernel stamps compare directly.
using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;

class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual TimePoint now() const = 0;
};

class SteadyClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const override { return std::chrono::steady_clock::now(); }
};

}  // namespace weir
