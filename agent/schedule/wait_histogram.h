// SPDX-License-Identifier: Apache-2.0
//
// How long requests waited in a queue: counts in buckets of 1 ms doubling up to 131 s, and beyond.
//
// Thread-compatible: a value; the owner locks.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "agent/base/clock.h"

namespace weir::schedule {

struct WaitHistogram {
  static constexpr std::size_t kBuckets = 18;

  std::array<std::uint64_t, kBuckets + 1> counts{};  ///< the last one: longer than all bounds
  Duration sum{};

  /// The longest wait that bucket `i` < kBuckets counts.
  static constexpr Duration bound(std::size_t i) {
    return std::chrono::milliseconds(std::int64_t{1} << i);
  }

  void add(Duration wait) {
    std::size_t bucket = 0;
    while (bucket < kBuckets && wait > bound(bucket)) ++bucket;
    ++counts[bucket];
    sum += wait;
  }
};

}  // namespace weir::schedule
