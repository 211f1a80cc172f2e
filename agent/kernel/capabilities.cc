// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/capabilities.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "agent/kernel/libbpf_log.h"
#include "agent/kernel/probe.h"

namespace weir::kernel {
namespace {

using Use = Capability::Use;

/// One row of the table, in the words of somebody who has to decide about a kernel.
struct Row {
  Feature feature;
  const char* name;
  const char* since;  ///< first Linux that has it
  const char* there;  ///< what Weir does with it
  /// What it costs to be without it; and whether something takes its place then.
  const char* without;
  Use otherwise;
};

constexpr char kRefused[] = "Weir does not start without it";
constexpr Use kRequired = Use::kMissing;

/// The request clocks and lockdown are described below.
constexpr std::array kRows = {
    Row{Feature::kCgroup2, "cgroup v2", "4.10", "the processes that are steered", kRefused,
        kRequired},
    Row{Feature::kBtf, "BTF", "5.4", "types of the running kernel", kRefused, kRequired},
    Row{Feature::kReadKernelTypes, "CAP_PERFMON", "5.8", "census and adoption read sockets",
        kRefused, kRequired},
    Row{Feature::kConnect4, "connect4 steering", "4.17", "", kRefused, kRequired},
    Row{Feature::kConnect6, "connect6 steering", "4.17", "", kRefused, kRequired},
    Row{Feature::kGetpeername4, "getpeername4", "5.8", "applications see the service", kRefused,
        kRequired},
    Row{Feature::kGetpeername6, "getpeername6", "5.8", "applications see the service", kRefused,
        kRequired},
    Row{Feature::kSockRelease, "sock_release", "5.9", "load is given back at close()", kRefused,
        kRequired},
    Row{Feature::kSockops, "sockops", "4.13", "outcome and latency of connects", kRefused,
        kRequired},
    Row{Feature::kCgroupLink, "cgroup bpf_link", "5.7", "links are pinned and updated in place",
        kRefused, kRequired},
    Row{Feature::kSocketStorage, "socket storage", "5.8", "state of each connection", kRefused,
        kRequired},
    Row{Feature::kRingBuffer, "ring buffer", "5.8", "weir events, weir explain", kRefused,
        kRequired},
    Row{Feature::kTcpIterator, "iter/tcp", "5.9", "older connections are taken in", kRefused,
        kRequired},
    Row{Feature::kStorageIterator, "iter/bpf_sk_storage_map", "5.9", "the census", kRefused,
        kRequired},
    Row{Feature::kSetRetval, "errno of a refused connect", "5.18", "ECONNREFUSED",
        "EPERM instead of ECONNREFUSED", Use::kFallback},
    Row{Feature::kTracepointPayload, "payload at tracepoints", "6.12",
        "responses are looked at as they are read",
        "responses are looked at packet by packet as they come: more CPU per request",
        Use::kFallback},
    Row{Feature::kSockDestroy, "bpf_sock_destroy", "6.5",
        "an opening breaker can end idle connections",
        "idle connections stay when a breaker opens: pooled ones fail one by one", Use::kMissing},
    Row{Feature::kWatchFromIterator, "state callback of adopted connections", "6.12",
        "their end is seen at once", "an end without close() is seen by the next census, after 5 s",
        Use::kFallback},
    Row{Feature::kReuseport, "listeners by depth", "4.19",
        "the I/O thread with least to do accepts", "connections go to I/O threads by hash",
        Use::kFallback},
    Row{Feature::kReuseportMigrate, "listener migration", "5.14",
        "queued connections move when a listener closes",
        "a handover resets queued connections, unless net.ipv4.tcp_migrate_req is 1",
        Use::kFallback},
    Row{Feature::kSyscallProgram, "syscall programs", "5.14",
        "per-CPU counters move to the maps of a newer agent",
        "an agent that needs larger maps does not start: `weir detach` first", Use::kMissing},
};

Capability describe(const Row& row, const KernelProbe& kernel) {
  const KernelProbe::Finding found = kernel.find(row.feature);
  const bool required = row.without == kRefused;
  std::string detail = found.there ? row.there : row.without;
  if (!found.how.empty()) detail += (detail.empty() ? "" : "; ") + found.how;
  return {row.name, found.there ? Use::kUsed : row.otherwise, required, std::move(detail),
          row.since};
}

Capability clock_row(const char* name, const char* since, bool there, bool used,
                     const std::string& detail) {
  const Use use = there && used ? Use::kUsed : there ? Use::kFallback : Use::kMissing;
  return {name, use, false, detail, since};
}

}  // namespace

Capabilities describe_kernel(std::optional<weir_request_clock> clock, const KernelProbe& kernel) {
  Capabilities table;
  for (const Row& row : kRows) table.push_back(describe(row, kernel));

  const KernelProbe::Finding tracepoints = kernel.find(Feature::kTracepoints);
  const bool tracepoint = has_request_clock(WEIR_CLOCK_TRACEPOINT, kernel);
  const bool skb = has_request_clock(WEIR_CLOCK_SKB, kernel);
  const weir_request_clock used =
      clock.value_or(tracepoint ? WEIR_CLOCK_TRACEPOINT : WEIR_CLOCK_SKB);
  table.push_back(clock_row("request clock: tracepoint", "6.3", tracepoint,
                            used == WEIR_CLOCK_TRACEPOINT,
                            tracepoint ? "responses as they are read, requests in cgroup_skb"
                                       : tracepoints.how + "; the skb clock runs per packet and "
                                                           "reads up to 0.1 ms more"));
  table.push_back(clock_row("request clock: skb", "4.10", skb, used == WEIR_CLOCK_SKB,
                            skb ? "cgroup_skb with a TCP sequence check"
                                : "without a clock requests are not seen, connections are"));
  const KernelProbe::Finding lockdown = kernel.find(Feature::kLockdown);
  table.push_back(
      {"kernel lockdown", lockdown.there ? Use::kUsed : Use::kMissing, false,
       lockdown.how + (lockdown.there ? "; kprobes and fentry are not used"
                                      : "; programs may not read sockets: no census, no adoption"),
       ""});
  return table;
}

Result<Capabilities> probe_capabilities(const KernelProbe& kernel) {
  route_libbpf_log();
  const KernelProbe::Finding sockops = kernel.find(Feature::kSockops);
  if (!sockops.there && sockops.how == std::strerror(EPERM)) {
    return make_error(Code::kPermissionDenied,
                      "may not load BPF programs: run as root or with CAP_BPF, CAP_NET_ADMIN and "
                      "CAP_PERFMON");
  }
  return describe_kernel(std::nullopt, kernel);
}

Result<Capabilities> probe_capabilities() { return probe_capabilities(running_kernel()); }

}  // namespace weir::kernel
