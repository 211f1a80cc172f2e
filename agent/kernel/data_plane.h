// SPDX-License-Identifier: Apache-2.0
//
// The kernel side as the rest of the agent sees it: attach, read, publish, detach. This folder is
// the only one that includes libbpf.
//
// Thread-safety: a DataPlane belongs to one thread, the control thread.
#pragma once

#include <array>
#include <chrono>
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

/// How the breakers of all backends behave; see bpf/lib/breaker.bpf.h.
struct BreakerOptions {
  std::uint32_t open_after_failures = 3;  ///< >= 1
  /// First open time; doubles at each failure in half-open, up to max_open. Up to a fifth is added
  /// at random.
  std::chrono::milliseconds open = std::chrono::seconds(5);
  std::chrono::milliseconds max_open = std::chrono::seconds(60);
};

/// A service and its backends as configuration names them.
struct BackendSpec {
  Endpoint address;
  bool is_local = false;
};

struct ServiceSpec {
  std::string name;  ///< at most WEIR_NAME_LEN - 1 characters, without '.' and '#'
  Endpoint address;
  weir_policy policy = WEIR_POLICY_PREQUAL;
  bool refuse_when_empty = false;
  /// An opening breaker also ends idle connections to its backend.
  bool end_idle_when_open = false;
  std::vector<BackendSpec> backends;
  /// Used while fewer than half of `backends` can be; a pool of its own, "<name>.backup".
  std::vector<BackendSpec> backup_backends;
};

/// The breaker of one backend at one moment.
struct BreakerReading {
  weir_breaker_state state = WEIR_BREAKER_CLOSED;
  std::uint32_t level = 0;  ///< relapses since it was last closed
  TimePoint until{};        ///< end of the open time; unset when closed
};

/// One backend as read from the maps at one moment. Counters are cumulative since the record was
/// taken into use, also across agent restarts.
struct BackendReading {
  std::uint32_t index = 0;  ///< into weir_be; stable while the backend exists
  std::uint32_t pool = 0;   ///< into weir_pool
  std::string service;      ///< name of the pool
  Endpoint address;
  bool is_local = false;
  weir_be_state state = WEIR_BE_FREE;
  BreakerReading breaker;
  double weight = 0;                                 ///< as last published
  std::optional<std::chrono::microseconds> latency;  ///< as last published
  std::optional<std::chrono::microseconds> min_rtt;

  std::uint32_t in_flight = 0;
  std::uint32_t fresh = 0;
  std::uint32_t waiting = 0;
  std::uint32_t streaming = 0;
  std::uint32_t consecutive_failures = 0;
  /// What it has to do now, in requests, as weir_load() in bpf/lib/pick.bpf.h counts them.
  [[nodiscard]] double load() const { return 1.0 * fresh + waiting + streaming / 4.0; }

  std::uint64_t connects = 0;
  std::uint64_t direct = 0;
  std::uint64_t adopted = 0;
  std::uint64_t established = 0;
  std::uint64_t connect_failures = 0;
  std::uint64_t refused = 0;
  std::uint64_t timed_out = 0;
  std::uint64_t resets = 0;
  std::uint64_t mux = 0;
  std::uint64_t closes = 0;
  std::uint64_t requests = 0;
  std::uint64_t interim = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t retransmits = 0;
  std::uint64_t rtos = 0;
  std::uint64_t breaker_opens = 0;
  std::uint64_t idle_ended = 0;
  TimePoint last_failure{};

  /// By weir_hist_kind. Null: nothing recorded, or a reading of gauges only. Shared between
  /// readings until something is recorded.
  std::shared_ptr<const std::array<Histogram, WEIR_HIST_KINDS>> histograms;
  [[nodiscard]] const Histogram& histogram(weir_hist_kind kind) const;
  [[nodiscard]] const Histogram& connect_latency() const { return histogram(WEIR_HIST_CONNECT); }
  [[nodiscard]] const Histogram& ttfb() const { return histogram(WEIR_HIST_TTFB); }
};

struct ServiceReading {
  std::uint32_t pool = 0;
  std::string name;
  Endpoint address;  ///< port 0: a backup pool
  weir_policy policy = WEIR_POLICY_PREQUAL;
  bool refuse_when_empty = false;
  bool end_idle_when_open = false;
  std::optional<std::uint32_t> backup;  ///< index of its backup pool
  double rif_limit = 0;                 ///< requests
  std::uint32_t members = 0;            ///< active backends
  std::uint32_t open = 0;               ///< of these, with a breaker that is not closed
  std::uint64_t picks = 0;
  std::uint64_t misses = 0;
  std::uint64_t panics = 0;
  std::uint64_t backups = 0;

  [[nodiscard]] bool is_backup() const { return address.port == 0; }
  /// Whether the kernel ignores the breakers of this pool now: as weir_mostly_open() has it.
  [[nodiscard]] bool panic() const { return !refuse_when_empty && open > 0 && 2 * open > members; }
};

/// What the agent has found out about its own counting since it started.
struct CensusReport {
  std::uint64_t censuses = 0;
  std::uint64_t sockets = 0;    ///< observed, at the last census
  std::uint64_t drift = 0;      ///< by how much gauges were wrong at the last census, in sum
  std::uint64_t corrected = 0;  ///< by how much they were corrected so far
  std::uint64_t adopted = 0;    ///< connections taken in that were there before
  std::uint64_t unwatched = 0;  ///< of these, whose end may be seen late: needs Linux 6.12
};

struct Snapshot {
  TimePoint taken{};
  weir_meta meta{};
  std::vector<ServiceReading> services;
  std::vector<BackendReading> backends;
  std::array<std::uint64_t, WEIR_STAT_COUNT> stats{};
  CensusReport census;  ///< all 0 when read without an agent
};

/// Reads maps; the seam that the control loop, `weir` and /metrics share.
class MapReader {
 public:
  virtual ~MapReader() = default;
  virtual Result<Snapshot> read() = 0;
  /// The same without histograms: no system call per backend. For readings many times a second.
  virtual Result<Snapshot> read_gauges() = 0;
};

/// What the control loop decides for one backend.
struct BackendDecision {
  std::uint32_t index = 0;
  /// Relative share of new connections, >= 0. 0: none. All weights of a pool 0: the pool is empty.
  /// Whether the breaker lets a backend take its share is decided by the kernel.
  double weight = 0;
  /// Time to first byte, for the policies that compare it; unset: not known.
  std::optional<std::chrono::microseconds> latency;
};

/// Above so many requests a backend of the pool is hot.
struct PoolLimit {
  std::uint32_t pool = 0;
  double rif_limit = 0;  ///< requests, >= 0
};

/// Writes decisions; the other half of the seam.
class MapWriter {
 public:
  virtual ~MapWriter() = default;
  /// Writes weight and latency of each backend, then builds and flips the alias table of each pool.
  /// Backends that are not mentioned get no new connection. Updates the heartbeat.
  virtual Status publish(const std::vector<BackendDecision>& decisions) = 0;
  virtual Status set_rif_limits(const std::vector<PoolLimit>& limits) = 0;
  /// Opens the breaker of a backend as a third failed connect would. Does nothing when it is not
  /// closed.
  virtual Status open_breaker(std::uint32_t backend) = 0;
  /// Ends the idle connections to a backend, so that their owners connect anew, elsewhere: those
  /// without a request under way, and without a byte unread or unacknowledged. Returns how many.
  /// kUnsupported where the kernel cannot. For pools with end_idle_when_open.
  virtual Result<std::size_t> end_idle_connections(std::uint32_t backend) = 0;
  /// Does what is due besides: adoption of older connections, the census. To be called at each
  /// tick; cheap when nothing is due.
  virtual Status housekeeping(TimePoint now) = 0;
};

class DataPlane : public MapReader, public MapWriter {
 public:
  struct Options {
    /// Directory of the cgroup v2 to attach to; empty: the root of the cgroup v2 mount.
    std::string cgroup_path;
    /// Where links and maps are pinned; below it "v<ABI>/". Must lie on a bpffs, which is mounted
    /// there when it is not.
    std::string pin_root = "/sys/fs/bpf/weir";
    /// How long another agent may take to let go of the pins.
    std::chrono::milliseconds wait_for_lock{0};
    /// Forces a request clock; unset: the best that this kernel offers.
    std::optional<weir_request_clock> request_clock;
    BreakerOptions breaker;
    std::vector<ServiceSpec> services;
  };

  /// Loads the programs and attaches them. What an earlier agent left is taken over (upgrade.h):
  /// counters and in-flight state are kept, the programs of the links replaced. A service or
  /// backend that is no longer in `options` is removed or drained. Fails with kAlreadyExists while
  /// another agent is alive on the same pins, or another Weir's programs are on the cgroup.
  static Result<std::unique_ptr<DataPlane>> attach(const Options& options);
  static Result<std::unique_ptr<DataPlane>> attach(const Options& options,
                                                   const KernelProbe& kernel);

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
