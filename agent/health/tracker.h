// SPDX-License-Identifier: Apache-2.0
//
// Health of every backend, and of each pool as a whole. When fewer than half of a pool's backends
// are usable, the signal is more likely wrong (or the rest about to be overrun) than the backends
// dead: the pool is in panic and its health is ignored. A service that would rather refuse than
// guess (when_empty: refuse) never panics; its open backends stay out.
//
// Thread-safety: belongs to one thread, the control thread.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/health/breaker.h"
#include "agent/kernel/data_plane.h"

namespace weir::health {

/// Names a backend for as long as it is configured; an index is reused, this is not.
using BackendKey = std::pair<std::string, Endpoint>;  ///< service name, address
[[nodiscard]] BackendKey key_of(const kernel::BackendReading& reading);

struct TrackerOptions {
  BreakerOptions breaker;
  /// Names of the services that refuse connections rather than panic.
  std::set<std::string> never_panic;
};

struct BackendChange {
  BackendKey backend;
  Breaker::Change breaker;
};

struct PoolChange {
  std::string service;
  bool panic = false;
  std::size_t usable = 0;
  std::size_t total = 0;
};

struct Changes {
  std::vector<BackendChange> backends;
  std::vector<PoolChange> pools;
};

/// Each change as one log line of key=value fields.
[[nodiscard]] std::string to_log_line(const BackendChange& change);
[[nodiscard]] std::string to_log_line(const PoolChange& change);

class Tracker {
 public:
  Tracker(TrackerOptions options, Uniform uniform);

  /// Takes in one reading of all backends and returns what changed by it. Draining backends are no
  /// part of a pool any more; backends that are not in the reading are forgotten.
  Changes observe(const std::vector<kernel::BackendReading>& readings, TimePoint now);

  /// Precondition: the backend was in the last reading and not draining.
  [[nodiscard]] BreakerState state(const BackendKey& backend) const;
  [[nodiscard]] bool panic(const std::string& service) const { return panic_.contains(service); }

 private:
  void observe_pools(Changes& changes);

  const TrackerOptions options_;
  const Uniform uniform_;
  std::map<BackendKey, Breaker> breakers_;
  std::set<std::string> panic_;  ///< services in panic
};

}  // namespace weir::health
