// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/alias_table.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace weir::kernel {
namespace {

constexpr double kTwoTo32 = 4294967296.0;

std::uint32_t to_threshold(double probability) {
  const double scaled = std::round(probability * kTwoTo32);
  return static_cast<std::uint32_t>(std::clamp(scaled, 0.0, kTwoTo32 - 1));
}

}  // namespace

std::vector<weir_pick_slot> build_alias_table(const std::vector<WeightedBackend>& backends) {
  std::vector<WeightedBackend> taken;
  double largest = 0;
  for (const WeightedBackend& backend : backends) {
    if (!(backend.weight > 0)) continue;
    taken.push_back(backend);
    largest = std::max(largest, backend.weight);
  }
  // Relative to the largest first: the sum of huge weights must not become infinite.
  double sum = 0;
  for (WeightedBackend& backend : taken) sum += (backend.weight /= largest);

  // share[i] is the probability of i times the number of slots: 1 fills a slot exactly.
  std::vector<double> share;
  std::vector<std::size_t> poor;
  std::vector<std::size_t> rich;
  for (std::size_t i = 0; i < taken.size(); ++i) {
    share.push_back(taken[i].weight * static_cast<double>(taken.size()) / sum);
    (share[i] < 1 ? poor : rich).push_back(i);
  }

  std::vector<weir_pick_slot> slots(taken.size());
  for (std::size_t i = 0; i < taken.size(); ++i) {
    const auto index = static_cast<weir_u16>(taken[i].index);
    slots[i] = {to_threshold(1), index, index};
  }
  // Each step fills one poor slot with what a rich backend has too much of. Slots left over differ
  // from 1 by rounding only and stay whole.
  while (!poor.empty() && !rich.empty()) {
    const std::size_t taker = poor.back();
    const std::size_t giver = rich.back();
    poor.pop_back();
    slots[taker].threshold = to_threshold(share[taker]);
    slots[taker].alias = static_cast<weir_u16>(taken[giver].index);
    share[giver] -= 1 - share[taker];
    if (share[giver] < 1) {
      rich.pop_back();
      poor.push_back(giver);
    }
  }
  return slots;
}

}  // namespace weir::kernel
