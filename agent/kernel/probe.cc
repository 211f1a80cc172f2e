// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/probe.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/capability.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <span>

#include "agent/kernel/fd.h"
#include "agent/kernel/listen_steering.h"
#include "agent/kernel/socket_sweeps.h"

namespace weir::kernel {
namespace {

using Finding = KernelProbe::Finding;

struct FreeBtf {
  void operator()(btf* types) const { btf__free(types); }
};
using KernelTypes = std::unique_ptr<btf, FreeBtf>;

constexpr bpf_insn instruction(unsigned code, unsigned to, unsigned from, int offset, int value) {
  bpf_insn made{};
  made.code = static_cast<__u8>(code);
  made.dst_reg = static_cast<__u8>(to & 0xf);
  made.src_reg = static_cast<__u8>(from & 0xf);
  made.off = static_cast<__s16>(offset);
  made.imm = value;
  return made;
}

constexpr bpf_insn set(unsigned to, int value) {
  return instruction(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value);
}

constexpr bpf_insn kExit = instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);

/// The errno of a refusal in `refused`.
Fd load(bpf_prog_type type, bpf_attach_type attach, std::span<const bpf_insn> code, int& refused,
        std::uint32_t btf_id) {
  bpf_prog_load_opts options{};
  options.sz = sizeof(options);
  options.expected_attach_type = attach;
  options.attach_btf_id = btf_id;
  if (type == BPF_PROG_TYPE_SYSCALL) options.prog_flags = BPF_F_SLEEPABLE;
  Fd fd(bpf_prog_load(type, "weir_probe", "GPL", code.data(), code.size(), &options));
  refused = fd.valid() ? 0 : errno;
  return fd;
}

/// A program that returns 1, or 0 where 1 is no verdict.
Fd load_tiny(bpf_prog_type type, bpf_attach_type attach, int& refused, std::uint32_t btf_id = 0) {
  const bool returns_nothing = type == BPF_PROG_TYPE_TRACING || type == BPF_PROG_TYPE_SYSCALL;
  const std::array code{set(BPF_REG_0, returns_nothing ? 0 : 1), kExit};
  return load(type, attach, code, refused, btf_id);
}

Finding loads(bpf_prog_type type, bpf_attach_type attach) {
  int refused = 0;
  const Fd program = load_tiny(type, attach, refused);
  return {program.valid(), program.valid() ? "program loads" : std::strerror(refused)};
}

/// Programs on something that BTF names.
Finding loads_on(bpf_attach_type attach, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const int id = libbpf_find_vmlinux_btf_id(name, attach);
    if (id <= 0) return {false, std::string("no ") + name};
    int refused = 0;
    const Fd program =
        load_tiny(BPF_PROG_TYPE_TRACING, attach, refused, static_cast<std::uint32_t>(id));
    if (!program.valid()) return {false, std::string(name) + ": " + std::strerror(refused)};
  }
  return {true, ""};
}

/// Whether a program on a tracepoint may look into the packet that it is given: one that does
/// nothing else.
Finding probe_tracepoint_payload() {
  constexpr char kTracepoint[] = "skb_copy_datagram_iovec";
  constexpr char kFunction[] = "bpf_dynptr_from_skb";
  const int tracepoint = libbpf_find_vmlinux_btf_id(kTracepoint, BPF_TRACE_RAW_TP);
  if (tracepoint <= 0) return {false, std::string("no ") + kTracepoint};
  const KernelTypes types(btf__load_vmlinux_btf());
  const int function =
      types ? btf__find_by_name_kind(types.get(), kFunction, BTF_KIND_FUNC) : -ENOENT;
  if (function <= 0) return {false, std::string("no ") + kFunction};
  constexpr int kDynptrBytes = 16;
  const std::array code{
      instruction(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_1, 0, 0),  // the packet
      set(BPF_REG_2, 0),                                                    // flags
      instruction(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_10, 0, 0),
      instruction(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_3, 0, 0, -kDynptrBytes),
      instruction(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, function),
      set(BPF_REG_0, 0),
      kExit,
  };
  int refused = 0;
  const Fd program = load(BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, code, refused,
                          static_cast<std::uint32_t>(tracepoint));
  return {program.valid(), program.valid() ? kTracepoint : std::strerror(refused)};
}

/// Asks for a link on an invalid cgroup: a kernel that knows cgroup links misses the cgroup
/// (EBADF), another one the command (EINVAL).
Finding probe_cgroup_link() {
  int refused = 0;
  const Fd program = load_tiny(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, refused);
  const Fd link(
      program.valid() ? bpf_link_create(program.get(), -1, BPF_CGROUP_INET4_CONNECT, nullptr) : -1);
  return {program.valid() && errno == EBADF, ""};
}

/// Whether the kernel's own types have an enumerator of this name: options of helpers have no other
/// trace that could be seen without using them.
bool has_enumerator(const char* wanted) {
  const KernelTypes types(btf__load_vmlinux_btf());
  if (!types) return false;
  for (std::uint32_t id = 1; id < btf__type_cnt(types.get()); ++id) {
    const btf_type* const type = btf__type_by_id(types.get(), id);
    if (!btf_is_enum(type)) continue;
    for (std::uint32_t i = 0; i < btf_vlen(type); ++i) {
      const char* const name = btf__name_by_offset(types.get(), btf_enum(type)[i].name_off);
      if (name != nullptr && std::strcmp(name, wanted) == 0) return true;
    }
  }
  return false;
}

/// Without it the verifier refuses programs that read the kernel's structs.
Finding probe_perfmon() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    if (word != "CapEff:") continue;
    unsigned long long effective = 0;
    status >> std::hex >> effective;
    const bool perfmon = (effective >> CAP_PERFMON & 1) != 0;
    return {perfmon || (effective >> CAP_SYS_ADMIN & 1) != 0,
            perfmon ? "CAP_PERFMON" : "CAP_SYS_ADMIN"};
  }
  return {true, "/proc/self/status cannot be read"};
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

class RunningKernel final : public KernelProbe {
 public:
  [[nodiscard]] Finding find(Feature feature) const override {
    switch (feature) {
      case Feature::kCgroup2: {
        const auto root = find_cgroup2_root();
        return {root.ok(), root ? *root : root.error().message};
      }
      case Feature::kBtf:
        return {libbpf_find_vmlinux_btf_id("sock", BPF_TRACE_RAW_TP) != -ESRCH, ""};
      case Feature::kReadKernelTypes:
        return probe_perfmon();
      case Feature::kConnect4:
        return loads(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT);
      case Feature::kConnect6:
        return loads(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT);
      case Feature::kGetpeername4:
        return loads(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_GETPEERNAME);
      case Feature::kGetpeername6:
        return loads(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_GETPEERNAME);
      case Feature::kSockRelease:
        return loads(BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_RELEASE);
      case Feature::kSockops:
        return loads(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS);
      case Feature::kCgroupLink:
        return probe_cgroup_link();
      case Feature::kSocketStorage:
        return {libbpf_probe_bpf_helper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_sk_storage_get,
                                        nullptr) == 1,
                ""};
      case Feature::kRingBuffer:
        return {libbpf_probe_bpf_map_type(BPF_MAP_TYPE_RINGBUF, nullptr) == 1, ""};
      case Feature::kTcpIterator:
        return loads_on(BPF_TRACE_ITER, {"tcp"});
      case Feature::kStorageIterator:
        return loads_on(BPF_TRACE_ITER, {"bpf_sk_storage_map"});
      case Feature::kSetRetval:
        return {libbpf_probe_bpf_helper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_set_retval,
                                        nullptr) == 1,
                ""};
      case Feature::kTracepoints:
        return loads_on(BPF_TRACE_RAW_TP, {"sock_recv_length"});
      case Feature::kTracepointPayload:
        return probe_tracepoint_payload();
      case Feature::kCgroupSkb:
        return loads(BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS);
      case Feature::kSockDestroy:
        return {can_end_connections(), ""};
      case Feature::kWatchFromIterator:
        return {has_enumerator("TCP_BPF_SOCK_OPS_CB_FLAGS"), ""};
      case Feature::kReuseport:
        return loads(BPF_PROG_TYPE_SK_REUSEPORT, BPF_SK_REUSEPORT_SELECT);
      case Feature::kReuseportMigrate: {
        const std::string sysctl = first_line("/proc/sys/net/ipv4/tcp_migrate_req");
        return {has_listener_migration(),
                sysctl.empty() ? "" : "net.ipv4.tcp_migrate_req=" + sysctl};
      }
      case Feature::kSyscallProgram:
        return loads(BPF_PROG_TYPE_SYSCALL, BPF_CGROUP_INET_INGRESS);
      case Feature::kLockdown: {
        const std::string modes = first_line("/sys/kernel/security/lockdown");
        // "none [integrity] confidentiality": the last one forbids programs to read kernel memory.
        return {modes.find("[confidentiality]") == std::string::npos,
                modes.empty() ? "not readable" : modes};
      }
    }
    return {};
  }
};

}  // namespace

const KernelProbe& running_kernel() {
  static const RunningKernel kernel;
  return kernel;
}

bool has_request_clock(weir_request_clock clock, const KernelProbe& kernel) {
  if (clock == WEIR_CLOCK_SKB) return kernel.has(Feature::kCgroupSkb);
  return clock == WEIR_CLOCK_TRACEPOINT && kernel.has(Feature::kTracepoints) &&
         kernel.has(Feature::kCgroupSkb);
}

}  // namespace weir::kernel
