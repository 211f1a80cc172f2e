// SPDX-License-Identifier: Apache-2.0
//
// The control loop: what the kernel cannot decide by itself at a connect. Two periods, one signal
// each, so that no two loops follow the same one:
//
//   health tick  100 ms  load        -> what counts as hot in each pool
//                        breakers    -> ends idle connections, says what changed
//   tick         1 s     first bytes -> latency of each backend; weights
//
// The weight of a backend is what the configuration says, for its latency and load are judged in
// the kernel; only the policy `composite` has its weights worked out here. When the loop fails or
// stops, the kernel goes on with what it was told last.
//
// Thread-safety: create(), tick(), health_tick() and run() belong to one thread, the control
// thread; latest() may be called from any.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "agent/balance/complaint.h"
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
  double weight = 0;              ///< as published; of `composite`: 1 is the pool's average
  double share = 0;               ///< of the pool's weight, 0..1
  std::optional<double> ttfb_ms;  ///< average, failed connects included; unset: never measured
  std::uint32_t in_flight = 0;
};

/// The same as an order to the kernel.
[[nodiscard]] kernel::BackendDecision decision_of(const BackendReport& backend);

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
                                                     kernel::MapWriter& writer, const Clock& clock);

  /// One round of both kinds. On failure nothing more is changed in this round and latest() stays
  /// as it was.
  Status tick();
  /// One round without latencies and weights, on a reading without histograms.
  Status health_tick();

  /// Ticks of both kinds, each in its period, until stopped, the first time after one period: a
  /// caller that wants weights at once calls tick() before. A failed tick is logged when it begins
  /// to fail and when it works again, and is tried again at the next.
  void run(const std::stop_token& stop);

  /// The last successful tick; null before it.
  [[nodiscard]] std::shared_ptr<const ControlReport> latest() const;

 private:
  ControlLoop(ControlOptions options, kernel::MapReader& reader, kernel::MapWriter& writer,
              const Clock& clock);

  /// What both ticks do with a reading.
  Status observe_health(const kernel::Snapshot& snapshot);
  /// Of pools that ask for it: clients that keep connections open would go on using the backend.
  void end_idle_connections(const std::vector<health::BackendChange>& changes,
                            const std::vector<kernel::ServiceReading>& pools);
  void update_latencies(const kernel::Snapshot& snapshot, TimePoint now);
  /// Decides for the backends of one pool, given by their positions in report.snapshot.backends.
  void decide_pool(const std::vector<std::size_t>& members, ControlReport& report) const;
  [[nodiscard]] double base_weight(const health::BackendKey& key) const;
  /// Weights that are worked out; configured ones are no news.
  void log_weights(const ControlReport& report);

  const ControlOptions options_;
  kernel::MapReader& reader_;
  kernel::MapWriter& writer_;
  const Clock& clock_;

  health::Tracker health_;
  Complaint housekeeping_{"housekeeping"};
  HostCpu cpu_;
  std::map<health::BackendKey, LatencyAverage> latencies_;
  std::map<health::BackendKey, double> logged_shares_;

  mutable std::mutex mutex_;
  std::shared_ptr<const ControlReport> latest_;  ///< guarded by mutex_
};

}  // namespace weir::balance
