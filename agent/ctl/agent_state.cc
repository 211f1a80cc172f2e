// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/agent_state.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

namespace weir::ctl {
namespace {

constexpr Duration kStaleHeartbeat = std::chrono::seconds(5);
/// The inode number of the initial pid namespace is fixed: PROC_PID_INIT_INO, 0xEFFFFFFC
/// (include/linux/proc_ns.h).
constexpr std::string_view kInitialPidNamespace = "pid:[4026531836]";
bool in_initial_pid_namespace(const std::filesystem::path& proc) {
  std::error_code error;
  return std::filesystem::read_symlink(proc / "self/ns/pid", error) == kInitialPidNamespace;
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

std::optional<std::uint32_t> lock_holder(const std::filesystem::path& pin_dir,
                                         const std::filesystem::path& proc) {
  struct stat info {};
  if (stat(pin_dir.c_str(), &info) != 0) return std::nullopt;
  const std::string wanted =
      fmt::format("{:02x}:{:02x}:{}", major(info.st_dev), minor(info.st_dev), info.st_ino);
  // "1: FLOCK  ADVISORY  WRITE 708 00:1f:13 0 EOF"; waiting locks have "->" after the number.
  std::ifstream file(proc / "locks");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string number, type, mode, access, place;
    std::uint32_t pid = 0;
    fields >> number >> type >> mode >> access >> pid >> place;
    if (fields && type == "FLOCK" && access == "WRITE" && place == wanted) return pid;
  }
  return std::nullopt;
}

AgentStatus agent_status(const weir_meta& meta, TimePoint now, const std::filesystem::path& pin_dir,
                         const std::filesystem::path& proc) {
  if (const auto holder = lock_holder(pin_dir, proc)) return {AgentState::kRunning, holder};
  if (meta.agent_pid == 0) return {};
  const bool runs =
      !in_initial_pid_namespace(proc) && now - from_kernel_ns(meta.heartbeat_ns) < kStaleHeartbeat;
  return {runs ? AgentState::kRunning : AgentState::kDead, meta.agent_pid};
}

}  // namespace weir::ctl
