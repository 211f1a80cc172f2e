// SPDX-License-Identifier: Apache-2.0
#include "agent/model/model_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace weir::model {

namespace {

// `stopping` tells nobody that it has become true.
constexpr std::chrono::milliseconds kLookForStop{20};

}  // namespace

ModelMemory::Shortage ModelMemory::shortage_locked(Holder holder, std::uint64_t bytes) const {
  Shortage shortage;
  for (const auto& [other, share] : shares_) {
    if (other == holder) continue;
    shortage.others += share.bytes;
    if (share.releasing) shortage.coming += share.bytes;
  }
  const std::uint64_t wanted = shortage.others + bytes;
  if (budget_ && wanted > *budget_) shortage.missing = wanted - *budget_;
  return shortage;
}

Status ModelMemory::reserve(Holder holder, std::uint64_t bytes,
                            const std::function<bool()>& stopping) {
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
      shortage = shortage_locked(holder, bytes);
      if (shortage.missing == 0) {
        shares_[holder] = {bytes, false};
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
  std::uint64_t bytes = 0;
  for (const auto& [holder, share] : shares_) bytes += share.bytes;
  return bytes;
}

}  // namespace weir::model
