// SPDX-License-Identifier: Apache-2.0
//
// Whether the agent that wrote a set of maps still runs.
//
// Thread-safe: a pure function over the proc file system.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "agent/base/clock.h"
#include "weir/abi.h"

namespace weir::ctl {

enum class AgentState {
  kRunning,
  kDead,  ///< it ended without saying so; the kernel steers on its last weights
  kNone,  ///< none has started, or the last one stopped cleanly
};
[[nodiscard]] std::string_view to_string(AgentState state);

/// Process id of the agent that holds the lock on `pin_dir` (agent/kernel/pin_dir.h), as seen in
/// the pid namespace of `proc`. Reads /proc/locks rather than trying the lock, which would make an
/// agent fail that starts at this moment.
[[nodiscard]] std::optional<std::uint32_t> lock_holder(const std::filesystem::path& pin_dir,
                                                       const std::filesystem::path& proc);

struct AgentStatus {
  AgentState state = AgentState::kNone;
  std::optional<std::uint32_t> pid;  ///< of a running agent, or of the one that died
};

/// Seen from the initial pid namespace, the lock decides. Within another (a container) locks of
/// foreign processes are hidden and only the heartbeat can: an agent that ticks more rarely than
/// every 5 s then looks dead between its ticks.
[[nodiscard]] AgentStatus agent_status(const weir_meta& meta, TimePoint now,
                                       const std::filesystem::path& pin_dir,
                                       const std::filesystem::path& proc = "/proc");

/// A kernel stamp (CLOCK_MONOTONIC) as a TimePoint.
[[nodiscard]] TimePoint from_kernel_ns(std::uint64_t ns);

}  // namespace weir::ctl
