// SPDX-License-Identifier: Apache-2.0
//
// weir-connect-loop: connects to a service and closes at once, as fast as one thread can, so that
// the kernel's run-time statistics of the connect hook rest on many real connections.
//
// The listener is here, too, on every local address: whichever backend the hook picks in 127/8 is
// answered. A handshake over loopback is complete when connect() returns, so the same thread
// accepts it; both ends then close with a reset, which leaves no TIME_WAIT behind.
//
// With --empty-program a cgroup/connect4 program of two instructions is attached meanwhile; its
// mean run time is what the statistics themselves cost on this machine.
//
// Prints {"connects":N,"failed":N,"ns_per_connect":N,"empty_program_ns":N|null}. Exit status: 0, 1
// when something failed, 2 for wrong arguments.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "tests/tools/socket.h"

namespace weir::bench {
namespace {

using std::chrono::nanoseconds;

struct Options {
  std::string target_text;
  std::string listen_text;
  std::string cgroup;
  std::uint64_t connects = 100000;
  bool empty_program = false;
};

/// `return 1` on the connect hook of a cgroup, as long as this lives.
class EmptyProgram {
 public:
  static Result<EmptyProgram> attach(const std::string& cgroup) {
    const std::array<bpf_insn, 2> code{
        bpf_insn{BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1},
        bpf_insn{BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
    };
    LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_CGROUP_INET4_CONNECT);
    EmptyProgram empty;
    empty.program_ = tools::UniqueFd(::bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "weir_empty",
                                                     "GPL", code.data(), code.size(), &options));
    if (!empty.program_.open()) return os_error(errno, "bpf_prog_load");
    const tools::UniqueFd directory(::open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory.open()) return os_error(errno, "open " + cgroup);
    empty.link_ = tools::UniqueFd(::bpf_link_create(empty.program_.get(), directory.get(),
                                                    BPF_CGROUP_INET4_CONNECT, nullptr));
    if (!empty.link_.open()) return os_error(errno, "bpf_link_create");
    return empty;
  }

  /// Unset when the kernel kept no statistics.
  [[nodiscard]] std::optional<double> mean_ns() const {
    bpf_prog_info info{};
    std::uint32_t length = sizeof info;
    if (::bpf_obj_get_info_by_fd(program_.get(), &info, &length) != 0 || info.run_cnt == 0) {
      return std::nullopt;
    }
    return static_cast<double>(info.run_time_ns) / static_cast<double>(info.run_cnt);
  }

 private:
  tools::UniqueFd program_;
  tools::UniqueFd link_;
};

struct Outcome {
  std::uint64_t connected = 0;
  std::uint64_t failed = 0;
  nanoseconds took{0};
};

void close_with_reset(tools::UniqueFd socket) {
  const linger reset{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

Result<Outcome> run(const Options& options, const Endpoint& target, const Endpoint& listen) {
  const auto listener = tools::listen_on(listen);
  if (!listener) return listener.error();
  Outcome outcome;
  const SteadyClock clock;
  const TimePoint begin = clock.now();
  for (std::uint64_t i = 0; i < options.connects; ++i) {
    auto client = tools::start_connect(target);
    tools::UniqueFd server(::accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
    // A connect that went elsewhere leaves nothing to accept.
    ++(client && server.open() ? outcome.connected : outcome.failed);
    if (client) close_with_reset(std::move(*client));
    if (server.open()) close_with_reset(std::move(server));
  }
  outcome.took = clock.now() - begin;
  return outcome;
}

Status join(const std::string& cgroup) {
  if (cgroup.empty()) return {};
  std::ofstream procs(cgroup + "/cgroup.procs");
  procs << "0" << std::flush;
  return procs ? Status{} : os_error(errno, "joining cgroup " + cgroup);
}

Status run_and_print(const Options& options, const Endpoint& target, const Endpoint& listen) {
  if (auto status = join(options.cgroup); !status) return status;
  std::optional<EmptyProgram> empty;
  if (options.empty_program) {
    auto attached = EmptyProgram::attach(options.cgroup);
    if (!attached) return std::move(attached).error();
    empty = std::move(*attached);
  }
  const auto outcome = run(options, target, listen);
  if (!outcome) return outcome.error();
  const std::optional<double> empty_ns = empty ? empty->mean_ns() : std::nullopt;
  std::printf("{\"connects\":%lu,\"failed\":%lu,\"ns_per_connect\":%.0f,\"empty_program_ns\":%s}\n",
              outcome->connected, outcome->failed,
              static_cast<double>(outcome->took.count()) / static_cast<double>(options.connects),
              empty_ns ? std::to_string(*empty_ns).c_str() : "null");
  if (outcome->failed == 0) return {};
  return make_error(Code::kUnavailable, std::to_string(outcome->failed) + " connects failed");
}

int run_main(int argc, char** argv) {
  CLI::App app("Connects and closes in a tight loop, against a listener of its own.",
               "weir-connect-loop");
  Options options;
  app.add_option("--target", options.target_text, "ADDRESS:PORT to connect to")->required();
  app.add_option("--listen", options.listen_text, "ADDRESS:PORT to accept on")->required();
  app.add_option("--connects", options.connects, "how many")
      ->check(CLI::Range(1, 100000000))
      ->capture_default_str();
  CLI::Option* const cgroup =
      app.add_option("--cgroup", options.cgroup, "cgroup v2 directory to join first");
  app.add_flag("--empty-program", options.empty_program,
               "attach a program of two instructions to that cgroup")
      ->needs(cgroup);
  CLI11_PARSE(app, argc, argv);

  const auto target = Endpoint::parse(options.target_text);
  const auto listen = Endpoint::parse(options.listen_text);
  if (!target || !listen) {
    std::fprintf(stderr, "weir-connect-loop: %s\n",
                 (target ? listen : target).error().message.c_str());
    return 2;
  }
  const Status status = run_and_print(options, *target, *listen);
  if (status) return 0;
  std::fprintf(stderr, "weir-connect-loop: %s\n", status.error().message.c_str());
  return 1;
}

}  // namespace
}  // namespace weir::bench

int main(int argc, char** argv) { return weir::bench::run_main(argc, argv); }
