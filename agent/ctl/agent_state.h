// SPDX-License-Identifier: Apache-2.0
//
// Whether the agent that wrote a set of maps still runs.
//
// Thread-safe: a pure function over the proc file system.
#pragma once

#include <filesystem>
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

/// The pid in `meta` is one of the initial pid namespace. Seen from there, the process decides;
/// from within another (a container), only the heartbeat can: an agent that ticks more rarely than
/// every 5 s then looks dead between its ticks.
[[nodiscard]] AgentState agent_state(const weir_meta& meta, TimePoint now,
                                     const std::filesystem::path& proc = "/proc");

/// A kernel stamp (CLOCK_MONOTONIC) as a TimePoint.
[[nodiscard]] TimePoint from_kernel_ns(std::uint64_t ns);

}  // namespace weir::ctl
