// SPDX-License-Identifier: Apache-2.0
//
// `weir status`: the agent, what this kernel offers, and what is attached.
//
// Thread-safe: values and functions without shared state.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/ctl/agent_state.h"
#include "agent/kernel/capabilities.h"
#include "agent/kernel/data_plane.h"
#include "agent/kernel/foreign.h"

namespace weir::ctl {

struct StatusReport {
  AgentState state = AgentState::kNone;
  // What the maps say; unset when nothing is pinned.
  std::optional<std::uint32_t> pid;            ///< unset when nothing is pinned
  std::optional<std::chrono::seconds> uptime;  ///< of a running agent
  std::optional<std::string> build_id;
  std::optional<std::string> cgroup;  ///< unset also when that cgroup is gone
  std::optional<weir_request_clock> request_clock;
  std::uint32_t abi_version = WEIR_ABI_VERSION;
  kernel::Capabilities capabilities;
  std::vector<kernel::LinkInfo> links;
  std::vector<kernel::ForeignProgram> foreign;  ///< programs of others on the same hooks
  std::vector<kernel::ServiceReading> services;
};

/// The part of the report that comes from weir_meta.
void describe_meta(const weir_meta& meta, TimePoint now, const AgentStatus& agent,
                   StatusReport& report);

/// Path of the cgroup with this id at or below `root`, a cgroup v2 mount: the id is the inode
/// number of its folder.
[[nodiscard]] std::optional<std::string> find_cgroup(const std::filesystem::path& root,
                                                     std::uint64_t id);

/// For a terminal.
[[nodiscard]] std::string to_text(const StatusReport& report);
/// One JSON object and a newline; what is unknown is null.
[[nodiscard]] std::string to_json(const StatusReport& report);

/// The output of the command. Nothing pinned is a state ("none"), not an error.
Result<std::string> status_command(const std::string& pin_root, bool json);

}  // namespace weir::ctl
