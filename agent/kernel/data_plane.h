// SPDX-License-Identifier: Apache-2.0
//
// The kernel side as the rest of the agent sees it: attach, read, publish, detach. This folder is
// the only one that includes libbpf.
//
// Thread-safety: a DataPlane belongs to one thread, the control thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "agent/kernel/capabilities.h"
#include "agent/kernel/histogram.h"
#include "weir/abi.h"

namespace weir::kernel {

/// A service and its backends as configuration names them.
struct BackendSpec {
  Endpoint address;
  bool is_local = false;
};

struct ServiceSpec {
  std::string name;  ///< at most WEIR_NAME_LEN - 1 characters
  Endpoint address;
  bool refuse_when_empty = false;
  std::vector<BackendSpec> backends;  ///< at most WEIR_POOL_SLOTS
};

/// One backend as read from the maps at one moment. Counters are cumulative since the record was
/// taken into use, also across agent restarts.
struct BackendReading {
  std::uint32_t index = 0;  ///< into weir_be; stable while the backend exists
  std::uint32_t pool = 0;   ///< into weir_pool
  std::string service;
  Endpoint address;
  bool is_local = false;
  weir_be_state state = WEIR_BE_FREE;
  double weight = 0;  ///< as last published
  std::uint32_t in_flight = 0;
  std::uint32_t waiting = 0;
  std::uint32_t streaming = 0;
  std::uint32_t consecutive_failures = 0;
  std::uint64_t connects = 0;
  std::uint64_t established = 0;
  std::uint64_t connect_failures = 0;
  std::uint64_t requests = 0;
  TimePoint last_failure{};
  Histogram connect_latency;
  Histogram ttfb;
};

struct ServiceReading {
  std::uint32_t pool = 0;
  std::string name;
  Endpoint address;
  std::uint64_t picks = 0;
  std::uint64_t misses = 0;
};

struct Snapshot {
  TimePoint taken{};
  weir_meta meta{};
  std::vector<ServiceReading> services;
  std::vector<BackendReading> backends;
  std::array<std::uint64_t, WEIR_STAT_COUNT> stats{};
};

/// Reads maps; the seam that the control loop, `weir` and /metrics share.
class MapReader {
 public:
  virtual ~MapReader() = default;
  virtual Result<Snapshot> read() = 0;
};

/// What the control loop decides for one backend.
struct BackendDecision {
  std::uint32_t index = 0;
  weir_be_state state = WEIR_BE_ACTIVE;
  /// Relative share of new connections, >= 0. All weights of a pool 0: the pool is empty.
  double weight = 0;
};

/// Writes decisions; the other half of the seam.
class MapWriter {
 public:
  virtual ~MapWriter() = default;
  /// Writes state and weight of each backend, then builds and flips the alias table of each pool
  /// named. Backends that are not mentioned get no new connection. Updates the heartbeat.
  virtual Status publish(const std::vector<BackendDecision>& decisions) = 0;
};

class DataPlane : public MapReader, public MapWriter {
 public:
  struct Options {
    /// Directory of the cgroup v2 to attach to; empty: the root of the cgroup v2 mount.
    std::string cgroup_path;
    /// Where links and maps are pinned; below it "v<ABI>/". Must lie on a bpffs, which is mounted
    /// there when it is not.
    std::string pin_root = "/sys/fs/bpf/weir";
    /// Forces a request clock; unset: the best that this kernel offers.
    std::optional<weir_request_clock> request_clock;
    std::vector<ServiceSpec> services;
  };

  /// Loads the programs and attaches them. Pins left by an earlier agent of the same ABI are
  /// adopted: maps and in-flight state are kept, the programs of the links replaced. A service or
  /// backend that is no longer in `options` is removed or drained. Fails with kAlreadyExists while
  /// another agent is alive on the same pins.
  static Result<std::unique_ptr<DataPlane>> attach(const Options& options);

  /// Whether pins of an earlier agent were adopted by attach().
  [[nodiscard]] virtual bool adopted() const = 0;
  [[nodiscard]] virtual const Capabilities& capabilities() const = 0;

  /// Removes what Weir pinned: programs, links, maps; nothing else. Without it, destruction leaves
  /// the kernel steering on the last weights.
  virtual Status detach() = 0;
};

/// Opens the pinned maps of a running or dead agent, read-only in effect. kNotFound when nothing is
/// pinned below `pin_root`.
Result<std::unique_ptr<MapReader>> open_pinned(const std::string& pin_root);

/// One pinned link, for `weir status`.
struct LinkInfo {
  std::string name;  ///< program name
  std::uint32_t link_id = 0;
  std::uint32_t program_id = 0;
  std::string attach_type;  ///< as bpftool names it, e.g. "cgroup_inet4_connect"
};
Result<std::vector<LinkInfo>> pinned_links(const std::string& pin_root);

/// `weir detach`: removes the pins of every ABI version below `pin_root`, with no agent needed.
/// Returns how many links were removed. kNotFound when there is nothing, kAlreadyExists while an
/// agent is alive on the pins (stop it; a clean stop detaches).
Result<std::size_t> detach_pinned(const std::string& pin_root);

}  // namespace weir::kernel
