// SPDX-License-Identifier: Apache-2.0
//
// What is told about the batches of one model: how many of which size, why they started, and what
// was learned of their time.
//
// Thread-compatible: a value; the owner locks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "agent/schedule/batch_former.h"

namespace weir::schedule {

struct BatchReading {
  /// Sizes up to 1, 2, 4 … 4096, which is the largest that can be configured.
  static constexpr std::size_t kSizes = 13;

  std::array<std::uint64_t, kSizes> by_size{};
  std::uint64_t members = 0;  ///< of all batches
  std::array<std::uint64_t, kBatchCauses> by_cause{};
  std::optional<StepTime::Line> step_time;
  std::optional<std::uint64_t> token_bound;  ///< of a batch of texts; unset: it is not learned

  /// The largest size that bucket `i` < kSizes counts.
  static constexpr std::size_t bound(std::size_t i) { return std::size_t{1} << i; }

  void add(std::size_t size, BatchCause cause) {
    std::size_t bucket = 0;
    while (bucket + 1 < kSizes && size > bound(bucket)) ++bucket;
    ++by_size[bucket];
    members += size;
    ++by_cause[static_cast<std::size_t>(cause)];
  }

  /// Counts of another one of the same model; what was learned is that of `other`, where it has
  /// learned anything.
  void add(const BatchReading& other) {
    for (std::size_t i = 0; i < kSizes; ++i) by_size[i] += other.by_size[i];
    members += other.members;
    for (std::size_t i = 0; i < kBatchCauses; ++i) by_cause[i] += other.by_cause[i];
    if (other.step_time) step_time = other.step_time;
    if (other.token_bound) token_bound = other.token_bound;
  }
};

}  // namespace weir::schedule
