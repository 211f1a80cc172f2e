// SPDX-License-Identifier: Apache-2.0
//
// The decimal integers of a range, as an expression of a grammar (see grammar.h).
//
// Thread-safe: a pure function.
#pragma once

#include <cstdint>
#include <string>

namespace weir::model {

/// Sixteen digits: what a double still tells apart.
inline constexpr std::int64_t kMaxIntegerBound = 9'007'199'254'740'992;  // 2^53

/// Without leading zeros and without -0. Preconditions: -kMaxIntegerBound <= min <= max <=
/// kMaxIntegerBound.
[[nodiscard]] std::string integer_range_grammar(std::int64_t min, std::int64_t max);

}  // namespace weir::model
