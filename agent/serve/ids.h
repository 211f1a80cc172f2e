// SPDX-License-Identifier: Apache-2.0
//
// Random names for requests and completions.
//
// Thread-safe: every thread has its own generator.
#pragma once

#include <string>
#include <string_view>

namespace weir::serve {

/// `prefix` and 32 hexadecimal digits.
[[nodiscard]] std::string make_id(std::string_view prefix);

}  // namespace weir::serve
