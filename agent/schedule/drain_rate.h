// SPDX-License-Identifier: Apache-2.0
//
// How fast a queue drains: completions per second of busy time, as an exponentially weighted
// average, and the Retry-After that follows from it. Idle time does not count: a queue that had
// nothing to do is not slow.
//
// Thread-compatible: the owner locks. Owns nothing; the clock must outlive it. Cannot fail.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>

#include "agent/base/clock.h"

namespace weir::schedule {

class DrainRate {
 public:
  /// `time_constant`: how much busy time the average looks back.
  explicit DrainRate(const Clock& clock, Duration time_constant = std::chrono::seconds(30));

  /// Work begins after an idle time, or ends. Repeating either is harmless.
  void set_busy(bool busy);

  /// One request left the queue's far end. Counts only while busy.
  void completed();

  /// Unset until the first completion.
  [[nodiscard]] std::optional<double> per_second() const;

  /// When a queue of `queued` requests will have drained, 1..60 s; 5 s while nothing is measured.
  [[nodiscard]] std::chrono::seconds retry_after(std::size_t queued) const;

 private:
  struct Average {
    double events = 0;   ///< completions, each weighted by exp(-age / time constant)
    double seconds = 0;  ///< busy time, weighted alike
  };
  [[nodiscard]] Average at(TimePoint now) const;

  const Clock& clock_;
  const double time_constant_s_;
  Average average_;
  std::optional<TimePoint> busy_since_;  ///< average_ is up to date until here; unset: idle
};

}  // namespace weir::schedule
