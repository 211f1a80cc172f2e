// SPDX-License-Identifier: Apache-2.0
//
// Who of the workers is parked, who is searching for tasks, and whom a new task wakes.
//
// A worker is running (it has tasks of its own), searching (it looks at everybody's), or parked. A
// new task wakes one parked worker, unless somebody is searching already: that one will find it.
// Who finds something and was the last to search wakes the next, so that as many wake as there is
// work for, one after the other. At most half of the workers search at a time: more would only get
// in one another's way.
//
// Why no wake-up is lost. Let a task be queued by S: store of the task, fence, load of the state.
// Let P be a worker that parks after searching: exchange of the state (parked + 1, searching - 1),
// fence, a last look at the queues. Both fences are sequentially consistent, so one comes first.
//   S's first: P's last look sees the task, and P wakes itself or another.
//   P's first: S's load sees what P wrote, or something later. If nobody is searching then, S wakes
//   a parked one, P or another. If some worker Q is, take Q for P in this proof. That ends, because
//   whoever stops searching parks, or has found a task and then, being the last, wakes another.
// The last look is taken by everybody who leaves nobody searching behind, also by a worker that was
// not let in to search: those because of whom it was not may have found something else meanwhile.
// tests/unit/schedule/worker_idle_model_test.cc runs this code through every interleaving, also
// with stores that become visible late.
//
// Thread-safe. Owns the list of parked workers; the sleeping itself is the Parker's. The platform
// is a parameter for that test.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "agent/base/clock.h"

namespace weir::schedule {

/// A Platform has Atomic<T>, Mutex, fence() (sequentially consistent), and a Parker with `void
/// wake()` and `bool wait(std::optional<Duration>)`, false when that time was over first. A wake()
/// that comes before its wait() ends it at once.
template <typename Platform>
class IdleWorkers {
 public:
  using Parker = typename Platform::Parker;

  struct Counts {
    std::uint32_t searching = 0;
    std::uint32_t parked = 0;
  };

  explicit IdleWorkers(std::size_t most_workers) { parked_.reserve(most_workers); }

  /// The calling worker wants to search, one of `workers`. False: enough do.
  [[nodiscard]] bool begin_search(std::uint32_t workers) {
    // May let one too many in, which does no harm.
    if (2 * unpack(state_.load(std::memory_order_relaxed)).searching >= workers) {
      return false;
    }
    state_.fetch_add(kSearching, std::memory_order_seq_cst);
    return true;
  }

  /// The searching worker has found a task, and runs.
  void end_search() {
    if (unpack(state_.fetch_sub(kSearching, std::memory_order_seq_cst)).searching == 1) {
      wake_one();
    }
  }

  /// To be called after a task was queued, by whoever queued it.
  void wake_one() {
    Platform::fence();
    if (needs_wake(unpack(state_.load(std::memory_order_relaxed)))) {
      wake_parked();
    }
  }

  /// Parks the calling worker until it is woken: then it is searching. `has_work` is asked after
  /// everybody else can see that it is parked. False: nobody woke it within `timeout`; it is
  /// not counted here any more.
  template <typename HasWork>
  [[nodiscard]] bool park(Parker& self, bool searching, HasWork&& has_work,
                          std::optional<Duration> timeout) {
    bool last = false;
    {
      const std::lock_guard lock(mutex_);
      parked_.push_back(&self);
      const std::uint64_t change = kParked - (searching ? kSearching : 0);
      const Counts before = unpack(state_.fetch_add(change, std::memory_order_seq_cst));
      last = before.searching == (searching ? 1 : 0);
    }
    if (last) {
      Platform::fence();
      if (has_work()) {
        // Wakes this one or another: either will search.
        wake_one();
      }
    }
    if (self.wait(timeout)) {
      return true;
    }
    {
      const std::lock_guard lock(mutex_);
      const auto at = std::find(parked_.begin(), parked_.end(), &self);
      if (at != parked_.end()) {
        parked_.erase(at);
        state_.fetch_sub(kParked, std::memory_order_seq_cst);
        return false;
      }
    }
    // Taken from the list already: the wake-up is on its way.
    return self.wait(std::nullopt);
  }

  /// Wakes everybody who is parked: there is something to say to them all.
  void wake_all() {
    std::vector<Parker*> woken;
    {
      const std::lock_guard lock(mutex_);
      woken.swap(parked_);
      state_.fetch_add(woken.size() * (kSearching - kParked), std::memory_order_seq_cst);
    }
    for (Parker* parker : woken) {
      parker->wake();
    }
  }

  [[nodiscard]] Counts counts() const { return unpack(state_.load(std::memory_order_relaxed)); }

 private:
  static constexpr std::uint64_t kSearching = 1;
  static constexpr std::uint64_t kParked = std::uint64_t{1} << 32;

  [[nodiscard]] static Counts unpack(std::uint64_t state) {
    return {static_cast<std::uint32_t>(state), static_cast<std::uint32_t>(state >> 32)};
  }
  [[nodiscard]] static bool needs_wake(Counts counts) {
    return counts.searching == 0 && counts.parked > 0;
  }

  void wake_parked() {
    Parker* woken = nullptr;
    {
      const std::lock_guard lock(mutex_);
      // Another may have woken one meanwhile.
      if (!needs_wake(unpack(state_.load(std::memory_order_relaxed))) || parked_.empty()) {
        return;
      }
      // The one that parked last has the warmest cache.
      woken = parked_.back();
      parked_.pop_back();
      state_.fetch_add(kSearching - kParked, std::memory_order_seq_cst);
    }
    woken->wake();
  }

  alignas(64) typename Platform::template Atomic<std::uint64_t> state_{0};
  alignas(64) typename Platform::Mutex mutex_;
  std::vector<Parker*> parked_;  ///< guarded by mutex_
};

}  // namespace weir::schedule
