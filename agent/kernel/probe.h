// SPDX-License-Identifier: Apache-2.0
//
// Single questions to the running kernel, answered by loading a program of two instructions.
// Nothing is attached.
//
// Thread-safe.
#pragma once

#include <optional>

#include "agent/kernel/capabilities.h"
#include "weir/abi.h"

namespace weir::kernel {

[[nodiscard]] bool has_request_clock(weir_request_clock clock);

/// The capability table; `clock` is the request clock in use, unset: the best there is.
[[nodiscard]] Capabilities describe_kernel(std::optional<weir_request_clock> clock);

}  // namespace weir::kernel
