// SPDX-License-Identifier: Apache-2.0
//
// How fast a queue drains, in requests and in estimated tokens per second of busy time, as
// exponentially weighted averages; and what follows from that: how long so much will take, and
// Retry-After. Idle time does not count: a queue that had nothing to do is not slow.
//
// Tokens are counted as they were estimated when the request came, on both sides: what is waiting
// and what was served. An estimate that is always too high by the same factor does no harm.
//
// Thread-compatible: the owner locks. Owns nothing; the clock must outlive it. Cannot fail.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "agent/base/clock.h"
#include "agent/schedule/queue_options.h"

namespace weir::schedule {

class ServiceRate {
 public:
  /// `time_constant`: how much busy time the averages look back.
  explicit ServiceRate(const Clock& clock, Duration time_constant = std::chrono::seconds(30));

  /// Work begins after an idle time, or ends. Repeating either is harmless.
  void set_busy(bool busy);

  /// A request was served, in `service` since it left the queue. Counts only while busy.
  void completed(std::uint64_t estimated_tokens, Duration service);

  // Unset until the first completion.
  [[nodiscard]] std::optional<double> requests_per_second() const;
  [[nodiscard]] std::optional<double> tokens_per_second() const;

  /// How long `load` will take. By tokens, or by requests where no tokens are known.
  [[nodiscard]] std::optional<Duration> drain_time(const QueueLoad& load) const;

  /// How long a request of so many tokens is worked on, once it has left the queue: as long as the
  /// average one, or less if it is smaller.
  [[nodiscard]] std::optional<Duration> service_time(std::uint64_t estimated_tokens) const;

 private:
  struct Average {
    // Sums over completions, each weighted by exp(-age / time constant).
    double requests = 0;
    double tokens = 0;
    double service_seconds = 0;
    double busy_seconds = 0;  ///< weighted alike
  };
  [[nodiscard]] Average at(TimePoint now) const;
  [[nodiscard]] std::optional<double> rate(double Average::*events) const;

  const Clock& clock_;
  const double time_constant_s_;
  Average average_;
  std::optional<TimePoint> busy_since_;  ///< average_ is up to date until here; unset: idle
};

/// When to come back to something that is over after `wait`: 1..60 s; 5 s when that is not known.
[[nodiscard]] std::chrono::seconds retry_after(std::optional<Duration> wait);

}  // namespace weir::schedule
