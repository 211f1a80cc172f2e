// SPDX-License-Identifier: Apache-2.0
//
// How many descriptors this process may have open. Systems begin with a soft limit of 1024 for the
// sake of select(), which nothing here uses.
//
// Thread-safe: the kernel's own value.
#pragma once

#include <cstdint>

#include "agent/base/result.h"

namespace weir {

/// Raises the soft limit to `wanted`, or to the hard limit where that is less; never lowers it.
/// What it is then.
[[nodiscard]] Result<std::uint64_t> raise_descriptor_limit(std::uint64_t wanted);

}  // namespace weir
