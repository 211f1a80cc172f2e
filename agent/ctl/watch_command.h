// SPDX-License-Identifier: Apache-2.0
//
// What the commands that watch have in common: whom they watch, and that there is one at a time.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "agent/base/result.h"
#include "agent/ctl/watch_loop.h"
#include "agent/kernel/data_plane.h"
#include "agent/kernel/event_reader.h"

namespace weir::ctl {

/// Index of the pool of a service. kInvalidArgument names those that there are.
Result<std::uint32_t> find_service(const kernel::Snapshot& snapshot, std::string_view name);
/// The same in the pinned maps. kNotFound when nothing is pinned.
Result<std::uint32_t> find_service(const std::string& pin_root, std::string_view name);

/// Prints on the standard output until a signal; says on the standard error when the watch has
/// begun, for those who want to cause what they watch. kAlreadyExists says who watches already.
Status watch_command(const std::string& pin_root, const kernel::Watch& wanted,
                     EventPrinter& printer, std::optional<std::uint64_t> count,
                     std::string_view what);

}  // namespace weir::ctl
