// SPDX-License-Identifier: Apache-2.0
//
// Which service and backend owns which record of weir_pool, weir_be, weir_total and weir_pick,
// and how a decision becomes an alias table. Works on plain memory: the mmap'd maps in production,
// vectors in tests.
//
// Writes only the fields that belong to user space; a live record is never written as a whole,
// because the kernel counts in it at the same time.
//
// Thread-safety: one thread; the kernel programs may run at any time.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/kernel/data_plane.h"
#include "weir/abi.h"

namespace weir::kernel {

/// Not owned; must outlive the Tables. With room for n backends:
struct TableMemory {
  std::span<weir_pool> pools;       ///< WEIR_MAX_POOLS
  std::span<weir_be> backends;      ///< n
  std::span<weir_total> totals;     ///< n
  std::span<weir_pick_slot> slots;  ///< WEIR_MAX_POOLS * 2 * n
};

/// One entry of weir_svc.
struct Route {
  weir_endpoint address{};
  weir_target target{};
};

/// What configure() leaves to do in maps that are not plain memory.
struct TableChanges {
  std::vector<Route> routes;                ///< weir_svc must hold exactly these
  std::vector<std::uint32_t> new_backends;  ///< their histograms must be zeroed
};

/// Records that `services` take in weir_be.
[[nodiscard]] std::size_t backends_needed(const std::vector<ServiceSpec>& services);

class Tables {
 public:
  explicit Tables(const TableMemory& memory);

  /// Gives every service and backend of `services` its record. Records in use are matched by
  /// service address and by (pool, backend address): index, counters and alias tables stay.
  /// Backends without a place in `services` become draining. A pool of which no active backend
  /// stays shares evenly between those it has now, until publish(). A pool that only drains is
  /// called "<name>#<index>" once another has its name. Changes nothing when it fails: a limit
  /// of abi.h is exceeded, or an address occurs twice.
  Result<TableChanges> configure(const std::vector<ServiceSpec>& services, TimePoint now);

  /// Writes `decisions` and flips the table of every pool; a backend that is not mentioned gets no
  /// new connection, one that is leaving stays draining. Then frees the draining records that
  /// nothing refers to any more. Changes nothing when a decision is invalid.
  Status publish(const std::vector<BackendDecision>& decisions, TimePoint now);

  /// Changes nothing when a limit is invalid.
  Status set_rif_limits(const std::vector<PoolLimit>& limits);

 private:
  void share_evenly(std::uint32_t pool, const std::vector<BackendDecision>& decisions);
  void check_out(std::uint32_t backend, TimePoint now);
  void flip(std::uint32_t pool, const std::vector<BackendDecision>& decisions);
  void free_drained(TimePoint now);

  TableMemory memory_;
  /// Set for records that are no longer configured: when they were checked out.
  std::vector<std::optional<TimePoint>> leaving_;
  /// Pools that are configured; the others are kept only for their draining backends.
  std::vector<bool> configured_ = std::vector<bool>(WEIR_MAX_POOLS);
  /// The backends in each pool's table.
  std::vector<std::vector<std::uint32_t>> members_ =
      std::vector<std::vector<std::uint32_t>>(WEIR_MAX_POOLS);
};

}  // namespace weir::kernel
