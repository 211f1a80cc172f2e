// SPDX-License-Identifier: Apache-2.0
//
// The queue of waiting requests: a bounded binary min-heap. Lower priority number first, then the
// earliest deadline (none comes last), then arrival. push(), pop() and remove() are O(log n),
// removal works anywhere in the heap.
//
// Thread-compatible: the owner locks. Owns its values. A full queue refuses the push and leaves the
// value with the caller; a handle that is no longer valid removes nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "agent/base/clock.h"

namespace weir::schedule {

/// What the order of the queue depends on.
struct QueueKey {
  std::int32_t priority = 0;  ///< lower first
  std::optional<TimePoint> deadline;
};

template <typename T>
class PriorityQueue {
 public:
  /// Names one queued value until it leaves; never names another one afterwards.
  struct Handle {
    std::size_t slot = 0;
    std::uint64_t arrival = 0;
  };

  /// Precondition: capacity > 0.
  explicit PriorityQueue(std::size_t capacity) : capacity_(capacity) {}

  [[nodiscard]] std::size_t size() const { return heap_.size(); }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }
  [[nodiscard]] bool empty() const { return heap_.empty(); }
  [[nodiscard]] bool full() const { return heap_.size() >= capacity_; }

  /// Unset: the queue is full and `value` is untouched.
  [[nodiscard]] std::optional<Handle> push(const QueueKey& key, T&& value) {
    if (full()) {
      return std::nullopt;
    }
    const std::size_t slot = take_slot();
    slots_[slot].key = key;
    slots_[slot].arrival = next_arrival_++;
    slots_[slot].value.emplace(std::move(value));
    heap_.push_back(slot);
    slots_[slot].place = heap_.size() - 1;
    sift_up(heap_.size() - 1);
    return Handle{slot, slots_[slot].arrival};
  }

  /// The first value in the order; unset when empty.
  [[nodiscard]] std::optional<T> pop() {
    if (heap_.empty()) {
      return std::nullopt;
    }
    return take(0);
  }

  /// The named value; unset when it has left already.
  [[nodiscard]] std::optional<T> remove(Handle handle) {
    if (handle.slot >= slots_.size()) {
      return std::nullopt;
    }
    const Slot& slot = slots_[handle.slot];
    if (!slot.value.has_value() || slot.arrival != handle.arrival) {
      return std::nullopt;
    }
    return take(slot.place);
  }

  /// Removes every value for which `predicate(const T&)` holds and returns them, in no order.
  /// O(n + k log n) for k removed values.
  template <typename Predicate>
  [[nodiscard]] std::vector<T> remove_if(Predicate&& predicate) {
    std::vector<Handle> chosen;
    for (const std::size_t slot : heap_) {
      if (predicate(std::as_const(*slots_[slot].value))) {
        chosen.push_back(Handle{slot, slots_[slot].arrival});
      }
    }
    std::vector<T> removed;
    removed.reserve(chosen.size());
    for (const Handle& handle : chosen) {
      removed.push_back(std::move(*remove(handle)));
    }
    return removed;
  }

 private:
  struct Slot {
    QueueKey key;
    std::uint64_t arrival = 0;
    std::size_t place = 0;   ///< index in heap_, while value is set
    std::optional<T> value;  ///< unset: the slot is free
  };

  [[nodiscard]] bool before(std::size_t a, std::size_t b) const {
    const Slot& x = slots_[a];
    const Slot& y = slots_[b];
    if (x.key.priority != y.key.priority) {
      return x.key.priority < y.key.priority;
    }
    const TimePoint x_deadline = x.key.deadline.value_or(TimePoint::max());
    const TimePoint y_deadline = y.key.deadline.value_or(TimePoint::max());
    if (x_deadline != y_deadline) {
      return x_deadline < y_deadline;
    }
    return x.arrival < y.arrival;
  }

  [[nodiscard]] std::size_t take_slot() {
    if (!free_.empty()) {
      const std::size_t slot = free_.back();
      free_.pop_back();
      return slot;
    }
    slots_.emplace_back();
    return slots_.size() - 1;
  }

  T take(std::size_t place) {
    const std::size_t slot = heap_[place];
    T value = std::move(*slots_[slot].value);
    slots_[slot].value.reset();
    free_.push_back(slot);
    const std::size_t last = heap_.back();
    heap_.pop_back();
    if (place < heap_.size()) {
      set_place(place, last);
      // The moved element may belong above or below its new place; one of the two does nothing.
      sift_up(place);
      sift_down(slots_[last].place);
    }
    return value;
  }

  void set_place(std::size_t place, std::size_t slot) {
    heap_[place] = slot;
    slots_[slot].place = place;
  }

  void sift_up(std::size_t place) {
    const std::size_t slot = heap_[place];
    while (place > 0) {
      const std::size_t parent = (place - 1) / 2;
      if (!before(slot, heap_[parent])) {
        break;
      }
      set_place(place, heap_[parent]);
      place = parent;
    }
    set_place(place, slot);
  }

  void sift_down(std::size_t place) {
    const std::size_t slot = heap_[place];
    for (;;) {
      std::size_t child = 2 * place + 1;
      if (child >= heap_.size()) {
        break;
      }
      if (child + 1 < heap_.size() && before(heap_[child + 1], heap_[child])) {
        ++child;
      }
      if (!before(heap_[child], slot)) {
        break;
      }
      set_place(place, heap_[child]);
      place = child;
    }
    set_place(place, slot);
  }

  const std::size_t capacity_;
  std::uint64_t next_arrival_ = 0;
  std::vector<Slot> slots_;        ///< stable storage; grows to the high-water mark
  std::vector<std::size_t> free_;  ///< slots without a value
  std::vector<std::size_t> heap_;  ///< slot numbers in heap order
};

}  // namespace weir::schedule
