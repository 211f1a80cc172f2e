// SPDX-License-Identifier: Apache-2.0
#include "agent/model/eviction.h"

#include <algorithm>
#include <numeric>

namespace weir::model {

std::optional<std::vector<std::size_t>> choose_victims(std::span<const Evictable> candidates,
                                                       std::uint64_t needed) {
  std::vector<std::size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return candidates[a].last_used < candidates[b].last_used;
  });
  std::uint64_t freed = 0;
  std::size_t count = 0;
  while (freed < needed && count < order.size()) freed += candidates[order[count++]].bytes;
  if (freed < needed) return std::nullopt;
  order.resize(count);
  // A large one may have made smaller ones unnecessary that were used less recently.
  std::vector<std::size_t> victims;
  for (std::size_t i = order.size(); i-- > 0;) {
    const std::uint64_t bytes = candidates[order[i]].bytes;
    if (freed - bytes >= needed) {
      freed -= bytes;
    } else {
      victims.push_back(order[i]);
    }
  }
  std::reverse(victims.begin(), victims.end());
  return victims;
}

}  // namespace weir::model
