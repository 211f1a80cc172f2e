// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/capabilities.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "agent/kernel/fd.h"
#include "agent/kernel/libbpf_log.h"
#include "agent/kernel/listen_steering.h"
#include "agent/kernel/probe.h"

namespace weir::kernel {
namespace {

using Use = Capability::Use;

/// A program that returns `result`; the errno of the refusal in `refused` when it does not load.
Fd load_tiny(bpf_prog_type type, bpf_attach_type attach, int result, int& refused,
             std::uint32_t btf_id = 0) {
  std::array<bpf_insn, 2> code{};
  code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
  code[0].imm = result;
  code[1].code = BPF_JMP | BPF_EXIT;
  bpf_prog_load_opts options{};
  options.sz = sizeof(options);
  options.expected_attach_type = attach;
  options.attach_btf_id = btf_id;
  Fd fd(bpf_prog_load(type, "weir_probe", "GPL", code.data(), code.size(), &options));
  refused = fd.valid() ? 0 : errno;
  return fd;
}

struct HookProbe {
  const char* name;
  bpf_prog_type type;
  bpf_attach_type attach;
};

constexpr std::array kRequiredHooks = {
    HookProbe{"connect4 steering", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT},
    HookProbe{"connect6 steering", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT},
    HookProbe{"getpeername4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_GETPEERNAME},
    HookProbe{"getpeername6", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_GETPEERNAME},
    HookProbe{"sock_release", BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_RELEASE},
    HookProbe{"sockops", BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS},
};

Capability required(std::string name, bool there, std::string detail) {
  return {std::move(name), there ? Use::kUsed : Use::kMissing, true, std::move(detail)};
}

Capability probe_hook(const HookProbe& hook) {
  int refused = 0;
  const Fd program = load_tiny(hook.type, hook.attach, 1, refused);
  return required(hook.name, program.valid(),
                  program.valid() ? "program loads" : std::strerror(refused));
}

/// Asks for a link on an invalid cgroup: a kernel that knows cgroup links misses the cgroup
/// (EBADF), another one the command (EINVAL).
Capability probe_cgroup_link() {
  int refused = 0;
  const Fd program =
      load_tiny(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, 1, refused);
  const Fd link(
      program.valid() ? bpf_link_create(program.get(), -1, BPF_CGROUP_INET4_CONNECT, nullptr) : -1);
  const bool there = program.valid() && errno == EBADF;
  return required("cgroup bpf_link", there,
                  there ? "links are pinned and updated in place" : "needs Linux 5.7");
}

Capability clock_row(const char* name, weir_request_clock clock, weir_request_clock used,
                     const char* detail) {
  const bool there = has_request_clock(clock);
  const Use use = clock == used && there ? Use::kUsed : there ? Use::kFallback : Use::kMissing;
  return {name, use, false, detail};
}

Capability lockdown_row() {
  std::ifstream file("/sys/kernel/security/lockdown");
  std::string modes;
  Capability row{"kernel lockdown", Use::kUsed, false, "not readable; nothing here depends on it"};
  if (std::getline(file, modes)) row.detail = modes + "; kprobes and fentry are not used";
  return row;
}

}  // namespace

bool has_request_clock(weir_request_clock clock) {
  int refused = 0;
  if (clock == WEIR_CLOCK_SKB) {
    return load_tiny(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS, 1, refused).valid();
  }
  if (clock != WEIR_CLOCK_TRACEPOINT) return false;
  for (const char* name : {"sock_send_length", "sock_recv_length"}) {
    const int id = libbpf_find_vmlinux_btf_id(name, BPF_TRACE_RAW_TP);
    if (id <= 0) return false;
    const Fd program = load_tiny(BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, 0, refused,
                                 static_cast<std::uint32_t>(id));
    if (!program.valid()) return false;
  }
  return true;
}

Capabilities describe_kernel(std::optional<weir_request_clock> clock) {
  Capabilities table;
  const auto root = find_cgroup2_root();
  table.push_back(required("cgroup v2", root.ok(), root ? *root : root.error().message));
  const bool has_btf = libbpf_find_vmlinux_btf_id("sock", BPF_TRACE_RAW_TP) != -ESRCH;
  table.push_back(
      required("BTF", has_btf, has_btf ? "types of the running kernel" : "no vmlinux BTF"));
  for (const HookProbe& hook : kRequiredHooks) table.push_back(probe_hook(hook));
  table.push_back(probe_cgroup_link());

  const bool can_set_errno =
      libbpf_probe_bpf_helper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_set_retval, nullptr) == 1;
  table.push_back({"errno of a refused connect", can_set_errno ? Use::kUsed : Use::kFallback, false,
                   can_set_errno ? "ECONNREFUSED" : "EPERM; ECONNREFUSED needs Linux 5.18"});

  const weir_request_clock used = clock.value_or(
      has_request_clock(WEIR_CLOCK_TRACEPOINT) ? WEIR_CLOCK_TRACEPOINT : WEIR_CLOCK_SKB);
  table.push_back(clock_row("request clock: tracepoint", WEIR_CLOCK_TRACEPOINT, used,
                            "BTF tracepoints sock_send_length, sock_recv_length"));
  table.push_back(clock_row("request clock: skb", WEIR_CLOCK_SKB, used,
                            "cgroup_skb with a TCP sequence check"));
  const bool migrates = has_listener_migration();
  table.push_back({"listeners by depth", migrates ? Use::kUsed : Use::kFallback, false,
                   migrates ? "queued connections move when a listener closes"
                            : "without moving queued connections, which a handover then resets; "
                              "that needs Linux 5.14"});
  table.push_back(lockdown_row());
  return table;
}

Result<Capabilities> probe_capabilities() {
  route_libbpf_log();
  int refused = 0;
  const Fd program = load_tiny(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, 1, refused);
  if (refused == EPERM) {
    return make_error(Code::kPermissionDenied,
                      "may not load BPF programs: run as root or with CAP_BPF, CAP_NET_ADMIN and "
                      "CAP_PERFMON");
  }
  return describe_kernel(std::nullopt);
}

}  // namespace weir::kernel
