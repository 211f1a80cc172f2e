// SPDX-License-Identifier: Apache-2.0
//
// Text out of a file that nobody vouches for, made fit for a log line and an error message.
//
// Thread-safe: a pure function.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace weir::model {

/// At most `most_bytes` of the text ("..." behind it, where there is more), as valid UTF-8; control
/// characters, which would break a line or hide what follows, become U+FFFD.
[[nodiscard]] std::string printable(std::string_view text, std::size_t most_bytes = 96);

}  // namespace weir::model
