// SPDX-License-Identifier: Apache-2.0
//
// Which models go when another one needs their memory. Weights that several have come free with the
// last of them: who goes alone frees only what nobody else has.
//
// Thread-safe: a pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "agent/base/clock.h"
#include "agent/model/memory_claim.h"

namespace weir::model {

/// A model that may go: it is ready, and has no request.
struct Evictable {
  MemoryClaim claim;
  TimePoint last_used{};
};

/// Indices of those that go, the least recently used first, so that the others have no more than
/// `most` bytes together with those that stay in any case; none of them could stay, counted from
/// the last. Unset: all together are not enough.
[[nodiscard]] std::optional<std::vector<std::size_t>> choose_victims(
    std::span<const Evictable> candidates, MemorySum staying, std::uint64_t most);

}  // namespace weir::model
