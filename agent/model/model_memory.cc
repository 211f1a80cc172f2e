// SPDX-License-Identifier: Apache-2.0
#include "agent/model/model_memory.h"

#include <fmt/format.h>

#include <chrono>
#include <set>
#include <utility>

namespace weir::model {

namespace {

// `stopping` tells nobody that it has become true.
constexpr std::chrono::milliseconds kLookForStop{20};

}  // namespace

ModelMemory::Shortage ModelMemory::shortage_locked(Holder holder, const MemoryClaim& claim) const {
  MemorySum others;
  MemorySum staying;
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

std::optional<std::vector<ModelMemory::Candidate>> ModelMemory::victims(
    Holder holder, const MemoryClaim& claim, const std::vector<Candidate>& candidates) const {
  std::vector<const Candidate*> known;
  std::vector<Evictable> evictable;
  MemorySum staying;
  staying.add(claim);
  {
    const std::lock_guard lock(mutex_);
    std::set<Holder> may_go;
    for (const Candidate& candidate : candidates) {
      const auto share = shares_.find(candidate.holder);
      if (share == shares_.end() || share->second.releasing) continue;  // it has gone meanwhile
      may_go.insert(candidate.holder);
      known.push_back(&candidate);
      evictable.push_back({share->second.claim, candidate.last_used});
    }
    for (const auto& [other, share] : shares_) {
      const bool stays = other != holder && !share.releasing && !may_go.contains(other);
      if (stays) staying.add(share.claim);
    }
  }
  const auto chosen = choose_victims(evictable, std::move(staying), *budget_);
  if (!chosen) return std::nullopt;
  std::vector<Candidate> victims;
  victims.reserve(chosen->size());
  for (const std::size_t index : *chosen) victims.push_back(*known[index]);
  return victims;
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
    const auto leaving = victims(holder, claim, candidates_());
    if (!leaving) {
      return make_error(
          Code::kResourceExhausted,
          fmt::format("it needs {} bytes of memory; of the {} that models may have "
                      "(registry.memory_bytes) others hold {}, and too few of those are idle",
                      bytes, *budget_, shortage.others));
    }
    // Who has got a request meanwhile stays, and is no candidate in the next round.
    for (const Candidate& candidate : *leaving) (void)candidate.evict();
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
  MemorySum sum;
  for (const auto& [holder, share] : shares_) sum.add(share.claim);
  return sum.bytes();
}

}  // namespace weir::model
