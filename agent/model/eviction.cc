// SPDX-License-Identifier: Apache-2.0
#include "agent/model/eviction.h"

#include <algorithm>
#include <numeric>

namespace weir::model {

std::optional<std::vector<std::size_t>> choose_victims(std::span<const Evictable> candidates,
                                                       MemorySum staying, std::uint64_t most) {
  std::vector<std::size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return candidates[a].last_used < candidates[b].last_used;
  });
  for (const Evictable& candidate : candidates) staying.add(candidate.claim);
  std::size_t count = 0;
  while (staying.bytes() > most && count < order.size()) {
    staying.remove(candidates[order[count++]].claim);
  }
  if (staying.bytes() > most) return std::nullopt;
  order.resize(count);
  // A large one may have made others unnecessary that were used less recently, and so may one that
  // frees nothing before another one with the same weights goes too.
  std::vector<std::size_t> victims;
  for (std::size_t i = order.size(); i-- > 0;) {
    staying.add(candidates[order[i]].claim);
    if (staying.bytes() <= most) continue;
    staying.remove(candidates[order[i]].claim);
    victims.push_back(order[i]);
  }
  std::reverse(victims.begin(), victims.end());
  return victims;
}

}  // namespace weir::model
