// SPDX-License-Identifier: Apache-2.0
//
// The control loop: read the maps, judge health, work out weights, publish them; once per tick.
// When it fails or stops, the kernel goes on with the last weights.
//
// Thread-safety: create(), tick() and run() belong to one thread, the control thread; latest() may
// be called from any.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "agent/balance/control_options.h"
#include "agent/balance/host_cpu.h"
#include "agent/balance/latency_average.h"
#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/health/tracker.h"
#include "agent/kernel/data_plane.h"

namespace weir::balance {

/// What one tick found and decided for one backend.
struct BackendReport {
  std::uint32_t index = 0;  ///< into weir_be
  std::string service;
  Endpoint address;
  bool is_local = false;
  health::BreakerState breaker = health::BreakerState::kClosed;
  weir_be_state state = WEIR_BE_ACTIVE;  ///< as published
  double weight = 0;                     ///< as published; 1 is the average of those in use
  double share = 0;                      ///< of the pool's new connections, 0..1
  std::optional<double> ttfb_ms;         ///< average; unset: never measured
  std::uint32_t in_flight = 0;
};

struct ControlReport {
  kernel::Snapshot snapshot;            ///< what was read, before the decisions
  std::vector<BackendReport> backends;  ///< without draining ones
  std::vector<std::string> services_in_panic;
  std::optional<double> host_cpu_percent;
};

class ControlLoop {
 public:
  /// Everything given by reference must outlive the loop. Fails with kInvalidArgument, naming the
  /// option and its limit.
  static Result<std::unique_ptr<ControlLoop>> create(ControlOptions options,
                                                     kernel::MapReader& reader,
                                                     kernel::MapWriter& writer, const Clock& clock,
                                                     health::Uniform uniform);

  /// One round. On failure nothing more is changed in this round and latest() stays as it was.
  Status tick();

  /// Ticks once per period until stopped, the first time after one period: a caller that wants
  /// weights at once calls tick() before. A failed tick is logged when it begins to
  /// fail and when it works again, and is tried again at the next.
  void run(const std::stop_token& stop);

  /// The last successful tick; null before it.
  [[nodiscard]] std::shared_ptr<const ControlReport> latest() const;

 private:
  ControlLoop(ControlOptions options, kernel::MapReader& reader, kernel::MapWriter& writer,
              const Clock& clock, health::Uniform uniform);

  void update_latencies(const kernel::Snapshot& snapshot, TimePoint now);
  /// Decides for the backends of one pool, given by their positions in report.snapshot.backends.
  void decide_pool(const std::vector<std::size_t>& members, ControlReport& report) const;
  void log_weights(const ControlReport& report);

  const ControlOptions options_;
  kernel::MapReader& reader_;
  kernel::MapWriter& writer_;
  const Clock& clock_;

  health::Tracker health_;
  HostCpu cpu_;
  std::map<health::BackendKey, LatencyAverage> latencies_;
  std::map<health::BackendKey, double> logged_shares_;

  mutable std::mutex mutex_;
  std::shared_ptr<const ControlReport> latest_;  ///< guarded by mutex_
};

}  // namespace weir::balance
