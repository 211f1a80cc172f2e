// SPDX-License-Identifier: Apache-2.0
//
// Which build this is.
//
// Thread-safe: constants.
#pragma once

#include <string_view>

namespace weir {

/// `git describe` of the source tree; shown by --version, in weir_meta and in /metrics.
[[nodiscard]] std::string_view build_id();

}  // namespace weir
