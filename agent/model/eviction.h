// SPDX-License-Identifier: Apache-2.0
//
// Which models go when another one needs their memory.
//
// Thread-safe: a pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "agent/base/clock.h"

namespace weir::model {

/// A model that may go: it is ready, and has no request.
struct Evictable {
  std::uint64_t bytes = 0;
  TimePoint last_used{};
};

/// Indices of those that go, the least recently used first, so that at least `needed` bytes come
/// free; none of them could stay, counted from the last. Unset: all together are not enough.
[[nodiscard]] std::optional<std::vector<std::size_t>> choose_victims(
    std::span<const Evictable> candidates, std::uint64_t needed);

}  // namespace weir::model
