// SPDX-License-Identifier: Apache-2.0
//
// Priority levels: what a request's "priority" means.
//
// Thread-safe: constants.
#pragma once

#include <cstdint>

namespace weir::schedule {

/// Levels are 0..kLevels - 1; 0 is the most urgent.
inline constexpr std::int32_t kLevels = 8;
/// Of requests that do not say.
inline constexpr std::int32_t kDefaultLevel = 4;

}  // namespace weir::schedule
