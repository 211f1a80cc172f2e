// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/detach.h"

#include <fmt/format.h>

#include "agent/base/clock.h"
#include "agent/ctl/agent_state.h"
#include "agent/kernel/data_plane.h"

namespace weir::ctl {
namespace {

/// The meta record of the pinned maps; unset when nothing is pinned.
Result<std::optional<weir_meta>> read_meta(const std::string& pin_root) {
  auto reader = kernel::open_pinned(pin_root);
  if (!reader && reader.error().code == Code::kNotFound) return std::optional<weir_meta>();
  if (!reader) return std::move(reader).error();
  auto snapshot = (*reader)->read();
  if (!snapshot) return std::move(snapshot).error();
  return std::optional(snapshot->meta);
}

Status check_no_agent(const std::string& pin_root) {
  auto meta = read_meta(pin_root);
  if (!meta) {
    Error error = std::move(meta).error().context("cannot tell whether an agent is running");
    error.message += " (--force removes the pins all the same)";
    return error;
  }
  if (!*meta || agent_state(**meta, SteadyClock().now()) != AgentState::kRunning) return {};
  return make_error(Code::kUnavailable,
                    fmt::format("weir-agent is running with pid {}: stop it first, or use --force "
                                "to take its programs out of the kernel now",
                                (*meta)->agent_pid));
}

}  // namespace

Result<std::string> detach_command(const std::string& pin_root, bool force) {
  if (!force) {
    if (auto status = check_no_agent(pin_root); !status) return std::move(status).error();
  }
  auto removed = kernel::detach_pinned(pin_root);
  if (!removed && removed.error().code != Code::kNotFound) return std::move(removed).error();
  const std::size_t links = removed ? *removed : 0;
  if (links == 0) return fmt::format("no links were pinned below {}\n", pin_root);
  return fmt::format("removed {} links and the maps below {}\n", links, pin_root);
}

}  // namespace weir::ctl
