// SPDX-License-Identifier: Apache-2.0
//
// What changed in the health of backends and pools between two readings. The breakers themselves
// are in the kernel, which opens and closes them without asking; this is what notices, for logs.
//
// Thread-safety: a Tracker belongs to one thread, the control thread; the functions to any.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/kernel/data_plane.h"

namespace weir::health {

/// Names a backend for as long as it is configured; an index is reused, this is not.
using BackendKey = std::pair<std::string, Endpoint>;  ///< name of the pool, address
[[nodiscard]] BackendKey key_of(const kernel::BackendReading& reading);

/// Whether connects to `service` go to its backends whatever their breakers say: most are open, and
/// no pool among `services` stands in.
[[nodiscard]] bool in_panic(const kernel::ServiceReading& service,
                            const std::vector<kernel::ServiceReading>& services);

/// A breaker changed its state.
struct BackendChange {
  BackendKey backend;
  std::uint32_t index = 0;  ///< into weir_be
  std::uint32_t pool = 0;   ///< into weir_pool
  weir_breaker_state from = WEIR_BREAKER_CLOSED;
  weir_breaker_state to = WEIR_BREAKER_CLOSED;
  std::uint32_t level = 0;  ///< relapses since it was last closed
  std::uint32_t consecutive_failures = 0;
  std::optional<Duration> open_for;  ///< of an open breaker: what is left of its time
};

/// A service began or ceased to be in panic: to send connections to backends whatever their
/// breakers say, because most are open and no backup pool helps.
struct PoolChange {
  std::string service;
  bool panic = false;
  std::uint32_t open = 0;     ///< backends whose breaker is not closed
  std::uint32_t members = 0;  ///< backends in all
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
  /// Takes in one reading and returns what changed since the last. A backend that is new here is
  /// compared with a closed breaker: an agent that adopts maps says what it finds. Draining
  /// backends get no connections and so are of no interest.
  Changes observe(const kernel::Snapshot& snapshot);

  [[nodiscard]] bool panic(const std::string& service) const { return panic_.contains(service); }

 private:
  struct Seen {
    std::uint32_t pool = 0;
    Endpoint address;
    weir_breaker_state state = WEIR_BREAKER_CLOSED;
    std::uint64_t opens = 0;
  };

  void observe_backends(const kernel::Snapshot& snapshot, Changes& changes);
  void observe_pools(const kernel::Snapshot& snapshot, Changes& changes);

  /// By index: ten times a second over thousands of backends, names would be too dear.
  std::unordered_map<std::uint32_t, Seen> seen_;
  std::set<std::string> panic_;  ///< services in panic
};

}  // namespace weir::health
