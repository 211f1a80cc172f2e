// SPDX-License-Identifier: Apache-2.0
//
// `weir backends`: what the kernel measured of each backend, and where it sends new connections.
//
// Thread-safe: functions without shared state.
#pragma once

#include <string>

#include "agent/base/result.h"
#include "agent/kernel/data_plane.h"

namespace weir::ctl {

/// For a terminal: one table per service and backup pool.
[[nodiscard]] std::string to_text(const kernel::Snapshot& snapshot);
/// One JSON object and a newline. Times in microseconds, unknown ones null; `buckets` holds
/// [upper bound in us, count, sum in ns] of each non-empty bucket. `share` is by weight, over the
/// backends whose breaker is closed (in panic: over all). A backup pool has no address.
[[nodiscard]] std::string to_json(const kernel::Snapshot& snapshot);

/// The output of the command. kNotFound when nothing is pinned.
Result<std::string> backends_command(const std::string& pin_root, bool json);

}  // namespace weir::ctl
