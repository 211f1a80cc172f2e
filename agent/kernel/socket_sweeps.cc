// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/socket_sweeps.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "agent/kernel/decode.h"
#include "agent/kernel/net_namespaces.h"

namespace weir::kernel {
namespace {

/// In the order of SocketSweeps::Program.
constexpr std::array kProgramNames = {"weir_settle", "weir_recount", "weir_adopt", "weir_end_idle"};
constexpr const char* kEndIdleName = kProgramNames.back();

/// The kernel ends a read after a million sockets; so many reads are more than it can have.
constexpr int kMaxReads = 10'000;

/// An iterator link; `map_fd` for a program that goes over a map, -1 for one that does not.
Result<Fd> make_link(const bpf_program* program, int map_fd) {
  bpf_iter_link_info info{};
  bpf_link_create_opts options{};
  options.sz = sizeof(options);
  if (map_fd >= 0) {
    info.map.map_fd = static_cast<std::uint32_t>(map_fd);
    options.iter_info = &info;
    options.iter_info_len = sizeof(info);
  }
  Fd link(bpf_link_create(bpf_program__fd(program), 0, BPF_TRACE_ITER, &options));
  if (!link.valid()) {
    return os_error(errno, std::string("cannot make an iterator of ") + bpf_program__name(program));
  }
  return link;
}

/// Runs it to its end. The programs print nothing: what is read is empty.
Status run_link(int link_fd) {
  const Fd iterator(bpf_iter_create(link_fd));
  if (!iterator.valid()) return os_error(errno, "cannot start an iterator over sockets");
  for (int reads = 0; reads < kMaxReads; ++reads) {
    char unused[64];
    const ssize_t got = read(iterator.get(), unused, sizeof(unused));
    if (got == 0) return {};
    if (got < 0 && errno != EAGAIN && errno != EINTR) {
      return os_error(errno, "cannot go over the sockets");
    }
  }
  return make_error(Code::kInternal, "an iterator over sockets does not end");
}

}  // namespace

bool can_end_connections() {
  struct FreeBtf {
    void operator()(btf* types) const { btf__free(types); }
  };
  const std::unique_ptr<btf, FreeBtf> types(btf__load_vmlinux_btf());
  return types && btf__find_by_name_kind(types.get(), "bpf_sock_destroy", BTF_KIND_FUNC) > 0;
}

void SocketSweeps::select(bpf_object* object) {
  bpf_program__set_autoload(bpf_object__find_program_by_name(object, kEndIdleName),
                            can_end_connections());
}

Result<SocketSweeps> SocketSweeps::open(bpf_object* object, std::string cgroup_path) {
  SocketSweeps sweeps;
  sweeps.cgroup_path_ = std::move(cgroup_path);
  const int sockets = bpf_object__find_map_fd_by_name(object, WEIR_MAP_SK);
  for (std::size_t i = 0; i < kPrograms; ++i) {
    const bpf_program* const program = bpf_object__find_program_by_name(object, kProgramNames[i]);
    if (!bpf_program__autoload(program)) continue;
    auto link = make_link(program, i == kSettle || i == kRecount ? sockets : -1);
    if (!link) return std::move(link).error();
    sweeps.links_[i] = std::move(*link);
  }
  auto sweep = MappedArray<weir_sweep>::map(bpf_object__find_map_fd_by_name(object, WEIR_MAP_SWEEP),
                                            1, true);
  if (!sweep) return std::move(sweep).error();
  sweeps.sweep_ = std::move(*sweep);
  // Numbers of runs go on from those of earlier agents, whose sockets are still there.
  sweeps.runs_ = to_kernel_ns(std::chrono::steady_clock::now());
  return sweeps;
}

weir_sweep& SocketSweeps::begin(TimePoint now) {
  weir_sweep& sweep = sweep_.span()[0];
  sweep = {};
  sweep.run = ++runs_;
  sweep.now_ns = to_kernel_ns(now);
  sweep.backend = WEIR_NO_BACKEND;
  return sweep;
}

Status SocketSweeps::run(Program program) const { return run_link(links_[program].get()); }

Status SocketSweeps::run_in_all_namespaces(Program program) const {
  auto namespaces = net_namespaces_below(cgroup_path_, "/proc");
  if (!namespaces) return std::move(namespaces).error();
  return in_each_net_namespace(*namespaces, [&] { return run(program); });
}

Result<SweepResult> SocketSweeps::result(Status done) const {
  if (!done) return std::move(done).error();
  const weir_sweep& sweep = sweep_.span()[0];
  return SweepResult{sweep.sockets, sweep.adopted, sweep.ended, sweep.failed, sweep.unwatched};
}

Status SocketSweeps::settle(TimePoint now) {
  begin(now);
  return run(kSettle);
}

Result<SweepResult> SocketSweeps::recount() {
  begin(TimePoint());
  return result(run(kRecount));
}

void SocketSweeps::wait_for_programs() {
  // Programs run inside an RCU section, and this waits for an RCU grace period. Kernels with CPUs
  // in full dynticks mode refuse; a program takes microseconds.
  if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0) return;
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

Result<SweepResult> SocketSweeps::adopt(TimePoint now) {
  begin(now);
  return result(run_in_all_namespaces(kAdopt));
}

Result<SweepResult> SocketSweeps::end_idle(std::uint32_t backend, TimePoint now) {
  if (!links_[kEndIdle].valid()) {
    return make_error(Code::kUnsupported,
                      "this kernel cannot end connections (bpf_sock_destroy, Linux 6.5)");
  }
  begin(now).backend = backend;
  return result(run_in_all_namespaces(kEndIdle));
}

}  // namespace weir::kernel
