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
/// is no failure. Fails with kAlreadyExists, naming its pid, while an agent runs on these pins: it
/// must be stopped first, for it would go on publishing to maps that nobody reads.
Result<std::string> detach_command(const std::string& pin_root);

}  // namespace weir::ctl
