// SPDX-License-Identifier: Apache-2.0
#include "agent/model/model_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>

namespace weir::model {

namespace {

// `stopping` tells nobody that it has become true.
constexpr std::chrono::milliseconds kLookForStop{20};

/// What claims come to in all.
class Sum {
 public:
  void add(const MemoryClaim& claim) {
    own_ += claim.own_bytes;
    if (claim.weights.empty()) {
      own_ += claim.weights_bytes;
    } else {
      std::uint64_t& known = weights_[claim.weights];
      known = std::max(known, claim.weights_bytes);
    }
  }
  [[nodiscard]] std::uint64_t bytes() const {
    return std::accumulate(weights_.begin(), weights_.end(), own_,
                           [](std::uint64_t sum, const auto& entry) { return sum + entry.second; });
  }

 private:
  std::uint64_t own_ = 0;
  std::map<std::string, std::uint64_t> weights_;
};

}  // namespace

ModelMemory::Shortage ModelMemory::shortage_locked(Holder holder, const MemoryClaim& claim) const {
  Sum others;
  Sum staying;
  for (const auto& [other, share] : shares_) {
    if (other == holder) continue;
    others.add(share.claim);
    if (!share.releasing) staying.add(share.claim);
  }
  Shortage shortage;
  shortage.others = others.bytes();
  others.add(claim);
  staying.add(claim);
  if (budget_ && others.bytes() > *budget_) shortage.missing = others.bytes() - *budget_;
  shortage.coming = others.bytes() - staying.bytes();
  return shortage;
}

Status ModelMemory::reserve(Holder holder, const MemoryClaim& claim,
                            const std::function<bool()>& stopping) {
  const std::uint64_t bytes = claim.all();
  if (budget_ && bytes > *budget_) {
    return make_error(Code::kResourceExhausted,
                      fmt::format("it needs {} bytes of memory, more than all that models may have "
                                  "({}, registry.memory_bytes)",
                                  bytes, *budget_));
  }
  while (!stopping()) {
    Shortage shortage;
    {
      std::unique_lock lock(mutex_);
      shortage = shortage_locked(holder, claim);
      if (shortage.missing == 0) {
        shares_[holder] = {claim, false};
        return {};
      }
      if (shortage.coming >= shortage.missing) {
        released_.wait_for(lock, kLookForStop);
        continue;
      }
    }
    const std::vector<Candidate> candidates = candidates_();
    std::vector<Evictable> evictable;
    evictable.reserve(candidates.size());
    for (const Candidate& candidate : candidates) evictable.push_back(candidate.what);
    const auto victims = choose_victims(evictable, shortage.missing - shortage.coming);
    if (!victims) {
      return make_error(
          Code::kResourceExhausted,
          fmt::format("it needs {} bytes of memory; of the {} that models may have "
                      "(registry.memory_bytes) others hold {}, and too few of those are idle",
                      bytes, *budget_, shortage.others));
    }
    // Who has got a request meanwhile stays, and is no candidate in the next round.
    for (const std::size_t victim : *victims) (void)candidates[victim].evict();
  }
  return make_error(Code::kCancelled, "the load was given up");
}

void ModelMemory::releasing(Holder holder) {
  const std::lock_guard lock(mutex_);
  const auto share = shares_.find(holder);
  if (share != shares_.end()) share->second.releasing = true;
  released_.notify_all();
}

void ModelMemory::release(Holder holder) {
  const std::lock_guard lock(mutex_);
  shares_.erase(holder);
  released_.notify_all();
}

std::uint64_t ModelMemory::reserved() const {
  const std::lock_guard lock(mutex_);
  Sum sum;
  for (const auto& [holder, share] : shares_) sum.add(share.claim);
  return sum.bytes();
}

}  // namespace weir::model
