// SPDX-License-Identifier: Apache-2.0
//
// The programs of bpf/ and where each is attached.
//
// Thread-safety: one thread.
#pragma once

#include <bpf/bpf.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/kernel/pin_dir.h"
#include "weir/abi.h"

struct bpf_object;

namespace weir::kernel {

/// How requests are seen.
struct RequestHooks {
  weir_request_clock clock = WEIR_CLOCK_NONE;
  /// With WEIR_CLOCK_TRACEPOINT: responses are looked at where they are copied to the application,
  /// not packet by packet as they come.
  bool copied_payload = false;
};

struct Hook {
  const char* program;
  bpf_attach_type attach_type;
  const char* attach_type_name;  ///< as bpftool prints it
  /// Set: loaded for this request clock only.
  std::optional<weir_request_clock> clock = std::nullopt;
  /// Set: and only if RequestHooks::copied_payload is the same.
  std::optional<bool> copied_payload = std::nullopt;
};

/// In the order in which they are attached: a connect() is steered only when the programs that
/// count it are there. One that was steered and not seen afterwards would be taken for a failure.
inline constexpr std::array kHooks = {
    Hook{"weir_peername4", BPF_CGROUP_INET4_GETPEERNAME, "cgroup_inet4_getpeername"},
    Hook{"weir_peername6", BPF_CGROUP_INET6_GETPEERNAME, "cgroup_inet6_getpeername"},
    Hook{"weir_sk_release", BPF_CGROUP_INET_SOCK_RELEASE, "cgroup_inet_sock_release"},
    Hook{"weir_sockops", BPF_CGROUP_SOCK_OPS, "cgroup_sock_ops"},
    Hook{"weir_tp_copy", BPF_TRACE_RAW_TP, "trace_raw_tp", WEIR_CLOCK_TRACEPOINT, true},
    Hook{"weir_tp_recv", BPF_TRACE_RAW_TP, "trace_raw_tp", WEIR_CLOCK_TRACEPOINT, false},
    Hook{"weir_tp_out", BPF_CGROUP_INET_EGRESS, "cgroup_inet_egress", WEIR_CLOCK_TRACEPOINT},
    Hook{"weir_tp_in", BPF_CGROUP_INET_INGRESS, "cgroup_inet_ingress", WEIR_CLOCK_TRACEPOINT,
         false},
    Hook{"weir_skb_out", BPF_CGROUP_INET_EGRESS, "cgroup_inet_egress", WEIR_CLOCK_SKB},
    Hook{"weir_skb_in", BPF_CGROUP_INET_INGRESS, "cgroup_inet_ingress", WEIR_CLOCK_SKB},
    Hook{"weir_connect4", BPF_CGROUP_INET4_CONNECT, "cgroup_inet4_connect"},
    Hook{"weir_connect6", BPF_CGROUP_INET6_CONNECT, "cgroup_inet6_connect"},
};

/// Whether the program belongs to an agent that sees requests in this way.
[[nodiscard]] bool wanted(const Hook& hook, const RequestHooks& requests);

struct AttachTarget {
  int cgroup_fd = -1;
  std::uint64_t cgroup_id = 0;
};

/// The programs in the links that are pinned, by id.
Result<std::vector<std::uint32_t>> attached_programs(const PinDir& pins);

/// Attaches the programs of a loaded object and pins the links. A link already pinned on the same
/// cgroup, by this version or an older one, gets the new program in place of its old one, with no
/// connect() in between unsteered; one elsewhere, or of a program that is not wanted, is removed.
/// Returns the ids of the programs that were attached to tracepoints before.
Result<std::vector<std::uint32_t>> attach_hooks(bpf_object* object, const PinDir& pins,
                                                const AttachTarget& target,
                                                const RequestHooks& requests);

}  // namespace weir::kernel
