// SPDX-License-Identifier: Apache-2.0
//
// Dates with times of day, as traces write them.
//
// Thread-safe: a pure function.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

namespace weir::replay {

/// Time since 1970 of "2023-11-16 18:15:46.6805900": a blank or a T between, a fraction of up to
/// nine digits or none, and nothing, Z, +HH:MM or -HH:MM behind it. Unset: it is something else, or
/// not a time from 1970 to 2199.
[[nodiscard]] std::optional<std::chrono::nanoseconds> read_date(std::string_view text);

}  // namespace weir::replay
