// SPDX-License-Identifier: Apache-2.0
//
// What the HTTP front counts. Every I/O thread owns one HttpCounters and alone writes it; readers
// add them up. No lock and no shared cache line on the request path.
//
// Thread-safety: the writing methods belong to one thread, add_to() is callable from any.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "agent/base/clock.h"
#include "agent/model/generation.h"

namespace weir::telemetry {

using schedule::kRefusalReasons;

/// Status codes with a counter of their own. 499: the client left before the answer (nginx's code
/// for it). Anything else counts as 500.
inline constexpr std::array kHttpCodes = {200, 400, 404, 405, 408, 413, 415, 417,
                                          429, 431, 499, 500, 501, 503, 505};

/// Request durations: 1 ms doubling up to 131 s, and beyond.
inline constexpr std::size_t kDurationBuckets = 18;

struct RouteReading {
  std::string path;  ///< the route's pattern; "other" for paths that no route has
  std::array<std::uint64_t, kHttpCodes.size()> by_code{};
  std::array<std::uint64_t, kDurationBuckets + 1> duration_buckets{};
  Duration duration_sum{};
};

/// One I/O thread and its listener.
struct ListenerThreadReading {
  std::uint64_t connections = 0;
  std::uint64_t depth = 0;       ///< what the kernel goes by; 0 when it chooses by hash
  std::uint64_t taken_over = 0;  ///< connections from listeners that closed
};

/// All threads added up, but for `listeners`.
struct HttpReading {
  std::vector<ListenerThreadReading> listeners;
  std::vector<RouteReading> routes;
  std::array<std::uint64_t, kRefusalReasons> refusals{};  ///< by model::RefusalReason
  std::uint64_t requests_in_flight = 0;
  std::uint64_t connections = 0;
  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_refused = 0;
  std::uint64_t accept_failures = 0;
  std::uint64_t slow_readers_cut = 0;
};

class HttpCounters {
 public:
  explicit HttpCounters(std::size_t routes) : routes_(routes) {}

  void connection_opened() {
    add(connections_accepted_);
    add(connections_);
  }
  void connection_closed() { add(connections_, -1); }
  /// Accepted by the kernel, turned away because max_connections are open.
  void connection_refused() { add(connections_refused_); }
  void accept_failed() { add(accept_failures_); }
  void request_started() { add(in_flight_); }
  [[nodiscard]] std::uint32_t in_flight() const {
    return static_cast<std::uint32_t>(in_flight_.load(std::memory_order_relaxed));
  }
  [[nodiscard]] std::uint64_t connections() const {
    return connections_.load(std::memory_order_relaxed);
  }
  void request_finished(std::size_t route, unsigned status, Duration duration);
  void refused(model::RefusalReason reason) { add(refusals_[static_cast<std::size_t>(reason)]); }
  void slow_reader_cut() { add(slow_readers_cut_); }

  /// Adds to `reading`, whose routes are those given at construction.
  void add_to(HttpReading& reading) const;

 private:
  using Counter = std::atomic<std::uint64_t>;
  struct Route {
    std::array<Counter, kHttpCodes.size()> by_code{};
    std::array<Counter, kDurationBuckets + 1> duration_buckets{};
    Counter duration_ns{0};
  };

  // One writer: a plain load and store, no locked instruction.
  static void add(Counter& counter, std::int64_t by = 1) {
    counter.store(counter.load(std::memory_order_relaxed) + static_cast<std::uint64_t>(by),
                  std::memory_order_relaxed);
  }

  std::vector<Route> routes_;
  std::array<Counter, kRefusalReasons> refusals_{};
  Counter in_flight_{0};
  Counter connections_{0};
  Counter connections_accepted_{0};
  Counter connections_refused_{0};
  Counter accept_failures_{0};
  Counter slow_readers_cut_{0};
};

/// Upper bound of duration bucket `i` < kDurationBuckets.
[[nodiscard]] constexpr Duration duration_bucket_bound(std::size_t i) {
  return std::chrono::milliseconds(1LL << i);
}

}  // namespace weir::telemetry
