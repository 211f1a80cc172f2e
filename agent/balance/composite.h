// SPDX-License-Identifier: Apache-2.0
//
// The weight policy `composite`: for each backend
//
//   weight = base * 100 * 1/(latency_ms + 1) * (1 - cpu/100) * 1/(active + 1)
//
// then floored and normalised over the pool. In floating point throughout: 200 ms, 50 % CPU and 10
// active give 0.0226, which integers would round to nothing.
//
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace weir::balance {

struct CompositeInput {
  double base_weight = 1;             ///< from the configuration, > 0
  std::optional<double> ttfb_ms;      ///< unset: never measured
  std::optional<double> cpu_percent;  ///< 0..100; unset: unknown, which is neutral
  std::uint32_t active = 0;           ///< connections in flight
};

/// No backend is scored below this part of its pool's best: it must be used now and then, or its
/// measurements would never improve.
inline constexpr double kScoreFloorRatio = 0.01;
/// What a CPU at 100 % leaves of the weight: busy is not broken, and an engine that computes keeps
/// its CPUs busy by design.
inline constexpr double kCpuFloorRatio = 0.1;

/// The formula for one backend without its base weight; > 0. An unset latency is 0 ms.
[[nodiscard]] double composite_score(const CompositeInput& input);

/// The weights of one pool, in the order of its backends; each > 0, their mean 1. A backend that
/// was never measured gets the median latency of those that were.
[[nodiscard]] std::vector<double> composite_weights(std::span<const CompositeInput> pool);

}  // namespace weir::balance
