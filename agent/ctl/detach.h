// SPDX-License-Identifier: Apache-2.0
//
// `weir detach`: removes what an agent left in the kernel.
//
// Thread-safe: a function without shared state.
#pragma once

#include <string>

#include "agent/base/result.h"

namespace weir::ctl {

/// Removes every pin of Weir below `pin_root` and returns what to tell the user; nothing to remove
/// is no failure. Unless forced, refuses with kUnavailable while an agent runs on these pins, and
/// whenever it cannot tell.
Result<std::string> detach_command(const std::string& pin_root, bool force);

}  // namespace weir::ctl
