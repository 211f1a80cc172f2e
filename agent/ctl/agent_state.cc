// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/agent_state.h"

#include <fstream>
#include <string>
#include <system_error>

namespace weir::ctl {
namespace {

constexpr Duration kStaleHeartbeat = std::chrono::seconds(5);
/// The inode number of the initial pid namespace is fixed: PROC_PID_INIT_INO, 0xEFFFFFFC
/// (include/linux/proc_ns.h).
constexpr std::string_view kInitialPidNamespace = "pid:[4026531836]";
/// Every thread of the agent has a name that starts like this.
constexpr std::string_view kAgentName = "weir";

bool in_initial_pid_namespace(const std::filesystem::path& proc) {
  std::error_code error;
  return std::filesystem::read_symlink(proc / "self/ns/pid", error) == kInitialPidNamespace;
}

/// Whether `pid` is an agent that runs: a reused pid is not, nor is one that ended but was not
/// waited for. The line is "PID (NAME) STATE ..." and NAME may contain anything.
bool is_running_agent(const std::filesystem::path& proc, std::uint32_t pid) {
  std::ifstream file(proc / std::to_string(pid) / "stat");
  std::string line;
  if (!std::getline(file, line)) return false;
  const auto open = line.find('(');
  const auto close = line.rfind(')');
  if (open == std::string::npos || close == std::string::npos || close + 2 >= line.size()) {
    return false;
  }
  const char state = line[close + 2];
  return line.compare(open + 1, kAgentName.size(), kAgentName) == 0 && state != 'Z' && state != 'X';
}

}  // namespace

std::string_view to_string(AgentState state) {
  switch (state) {
    case AgentState::kRunning:
      return "running";
    case AgentState::kDead:
      return "dead";
    case AgentState::kNone:
      return "none";
  }
  return "unknown";
}

TimePoint from_kernel_ns(std::uint64_t ns) {
  return TimePoint(std::chrono::nanoseconds(static_cast<std::int64_t>(ns)));
}

AgentState agent_state(const weir_meta& meta, TimePoint now, const std::filesystem::path& proc) {
  if (meta.agent_pid == 0) return AgentState::kNone;
  const bool runs = in_initial_pid_namespace(proc)
                        ? is_running_agent(proc, meta.agent_pid)
                        : now - from_kernel_ns(meta.heartbeat_ns) < kStaleHeartbeat;
  return runs ? AgentState::kRunning : AgentState::kDead;
}

}  // namespace weir::ctl
