// SPDX-License-Identifier: Apache-2.0
//
// Who of the models has how much of the memory that they share: a load asks first, and models that
// nobody uses go in its favour, the least recently used first. A model with requests never goes: a
// load that would need its memory is refused, before anybody has gone for it, and may be tried
// again later. It waits for memory that others are giving back already.
//
// Weights that several have in memory together count once, until the last of them is released.
//
// Thread-safe. Calls the functions that it was given outside its lock, on the thread that reserves.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/eviction.h"
#include "agent/model/memory_claim.h"

namespace weir::model {

class ModelMemory {
 public:
  using Holder = const void*;
  struct Candidate {
    Holder holder = nullptr;
    TimePoint last_used{};
    std::function<bool()> evict;  ///< false: it has a request by now. Calls releasing().
  };
  using Candidates = std::function<std::vector<Candidate>()>;

  /// `budget_bytes` unset: no bound.
  ModelMemory(std::optional<std::uint64_t> budget_bytes, Candidates candidates)
      : budget_(budget_bytes), candidates_(std::move(candidates)) {}

  /// Sets aside what `holder` will have in all; waits while others give back what is missing.
  /// kResourceExhausted: it cannot have it now, or never. kCancelled: `stopping` became true.
  Status reserve(Holder holder, const MemoryClaim& claim, const std::function<bool()>& stopping);
  /// What the holder has will be released, without anybody else's doing.
  void releasing(Holder holder);
  void release(Holder holder);

  [[nodiscard]] std::optional<std::uint64_t> budget() const { return budget_; }
  [[nodiscard]] std::uint64_t reserved() const;

 private:
  struct Share {
    MemoryClaim claim;
    bool releasing = false;
  };
  /// Bytes missing for a claim, and of these, bytes that are being released.
  struct Shortage {
    std::uint64_t missing = 0;
    std::uint64_t coming = 0;
    std::uint64_t others = 0;
  };
  [[nodiscard]] Shortage shortage_locked(Holder holder, const MemoryClaim& claim) const;
  /// Those that go in favour of a claim; unset: all together are not enough.
  [[nodiscard]] std::optional<std::vector<Candidate>> victims(
      Holder holder, const MemoryClaim& claim, const std::vector<Candidate>& candidates) const;

  const std::optional<std::uint64_t> budget_;
  const Candidates candidates_;
  mutable std::mutex mutex_;
  std::condition_variable released_;
  std::map<Holder, Share> shares_;  ///< guarded by mutex_
};

}  // namespace weir::model
