// SPDX-License-Identifier: Apache-2.0
//
// A worker's own queue: a ring of a fixed number of slots, first in, first out. One thread, the
// owner, pushes and pops; any other thread may steal the older half of what is in it. No locks.
//
// How. Positions count up and wrap at 2^32; a slot is position modulo capacity. Three of them,
// `freed <= first <= end`: values lie in [first, end), and [freed, first) is being moved out by the
// one thief that may be at work. `freed` and `first` are one 64-bit word, so that a single compare
// and exchange takes values: the thief moves `first` (now the values are its own, and nobody
// overwrites them, because the owner pushes only up to freed + capacity), moves them out, and then
// sets `freed` to where `first` is by then. The owner may pop meanwhile: that moves `first` alone.
// A value is therefore never read by two, nor moved while somebody else reads it, and may be of any
// type. The idea of the two halves is that of Tokio's run queue, which descends from Go's.
//
// What orders what: `end` is stored with release after the slot was written, and loaded with
// acquire before it is read; the word is exchanged with release after a slot was moved out, and
// loaded with acquire before it is written again.
//
// Wrap: a thief would have to sleep through exactly a multiple of 2^32 pushes between its load and
// its exchange to be deceived.
//
// Thread-safe as said. Owns its values; nobody may use it any more when it is destroyed. The type
// of the atomics is a parameter so that a test can run this very code through every interleaving
// (tests/unit/schedule/worker_ring_model_test.cc).
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace weir::schedule {

inline constexpr std::size_t kCacheLineBytes = 64;

template <typename T, std::uint32_t kCapacity = 256, template <typename> class Atomic = std::atomic>
class WorkerRing {
  static_assert(std::has_single_bit(kCapacity) && kCapacity >= 2);

 public:
  static constexpr std::uint32_t kHalf = kCapacity / 2;

  WorkerRing() = default;
  WorkerRing(const WorkerRing&) = delete;
  WorkerRing& operator=(const WorkerRing&) = delete;
  ~WorkerRing() {
    const std::uint32_t end = end_.load(std::memory_order_relaxed);
    for (std::uint32_t at = unpack(word_.load(std::memory_order_relaxed)).first; at != end; ++at) {
      slot(at).~T();
    }
  }

  /// Owner. How many values push() will take now; thieves only make it more.
  [[nodiscard]] std::uint32_t room() const {
    const Word word = unpack(word_.load(std::memory_order_acquire));
    return kCapacity - (end_.load(std::memory_order_relaxed) - word.freed);
  }

  /// Owner. False: full, and `value` is untouched.
  [[nodiscard]] bool push(T& value) { return push(&value, 1) == 1; }

  /// Owner. Moves in as many of the `count` values as there is room for, in this order; how many.
  [[nodiscard]] std::uint32_t push(T* values, std::uint32_t count) {
    const std::uint32_t end = end_.load(std::memory_order_relaxed);
    const std::uint32_t free = room();
    const std::uint32_t taken = count < free ? count : free;
    for (std::uint32_t i = 0; i < taken; ++i) {
      ::new (static_cast<void*>(&slot(end + i))) T(std::move(values[i]));
    }
    if (taken > 0) {
      end_.store(end + taken, std::memory_order_release);
    }
    return taken;
  }

  /// Owner. The oldest value, moved to `out`; false: empty.
  [[nodiscard]] bool pop(T& out) {
    const std::uint32_t end = end_.load(std::memory_order_relaxed);
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    for (;;) {
      const Word word = unpack(seen);
      if (word.first == end) {
        return false;
      }
      const std::uint32_t next = word.first + 1;
      // Without a thief nothing is between freed and first.
      const Word after{word.freed == word.first ? next : word.freed, next};
      // Release is not needed: whoever writes the slot again is this thread. But a thief's release
      // in this word must go on to be seen through it: an exchange continues a release sequence.
      if (word_.compare_exchange_weak(seen, pack(after), std::memory_order_relaxed,
                                      std::memory_order_relaxed)) {
        move_out(word.first, out);
        return true;
      }
    }
  }

  /// Owner. Moves the older half to `out`, uninitialised room for kHalf values; 0 when the ring is
  /// not full, or a thief is at work, which is about to make room itself.
  [[nodiscard]] std::uint32_t take_half(T* out) {
    const std::uint32_t end = end_.load(std::memory_order_relaxed);
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    const Word word = unpack(seen);
    if (word.freed != word.first || end - word.first != kCapacity) {
      return 0;
    }
    const std::uint32_t next = word.first + kHalf;
    if (!word_.compare_exchange_strong(seen, pack({next, next}), std::memory_order_relaxed,
                                       std::memory_order_relaxed)) {
      return 0;
    }
    for (std::uint32_t i = 0; i < kHalf; ++i) {
      ::new (static_cast<void*>(out + i)) T(std::move(slot(word.first + i)));
      slot(word.first + i).~T();
    }
    return kHalf;
  }

  /// The owner of `own`, which is not this ring. Moves the older half of this one, rounded up, to
  /// the end of `own`; how many. 0: empty, another thief is at work, or `own` has no room for a
  /// half.
  [[nodiscard]] std::uint32_t steal_into(WorkerRing& own) {
    if (own.room() < kHalf) {
      return 0;
    }
    std::uint64_t seen = word_.load(std::memory_order_acquire);
    std::uint32_t count = 0;
    std::uint64_t claimed = 0;
    do {
      const Word word = unpack(seen);
      const std::uint32_t size = end_.load(std::memory_order_acquire) - word.first;
      // More than the capacity: `seen` was old when `end` was read; the exchange would fail.
      if (word.freed != word.first || size == 0 || size > kCapacity) {
        return 0;
      }
      count = size - size / 2;
      claimed = pack({word.freed, word.first + count});
    } while (!word_.compare_exchange_weak(seen, claimed, std::memory_order_acquire,
                                          std::memory_order_acquire));
    const std::uint32_t first = unpack(claimed).freed;
    const std::uint32_t end = own.end_.load(std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < count; ++i) {
      ::new (static_cast<void*>(&own.slot(end + i))) T(std::move(slot(first + i)));
      slot(first + i).~T();
    }
    own.end_.store(end + count, std::memory_order_release);
    // Only the owner can have moved `first` meanwhile.
    seen = claimed;
    for (;;) {
      const std::uint32_t at = unpack(seen).first;
      if (word_.compare_exchange_weak(seen, pack({at, at}), std::memory_order_release,
                                      std::memory_order_relaxed)) {
        return count;
      }
    }
  }

  /// Anybody. A moment's truth; without what a thief has claimed.
  [[nodiscard]] std::uint32_t size() const {
    const Word word = unpack(word_.load(std::memory_order_acquire));
    const std::uint32_t size = end_.load(std::memory_order_acquire) - word.first;
    return size > kCapacity ? kCapacity : size;
  }

 private:
  /// So that every ring wraps soon, and not after a month.
  static constexpr std::uint32_t kStart = 0U - kCapacity;

  struct Word {
    std::uint32_t freed = 0;  ///< slots before this one may be written again
    std::uint32_t first = 0;  ///< the oldest value
  };
  [[nodiscard]] static std::uint64_t pack(Word word) {
    return (std::uint64_t{word.freed} << 32) | word.first;
  }
  [[nodiscard]] static Word unpack(std::uint64_t word) {
    return {static_cast<std::uint32_t>(word >> 32), static_cast<std::uint32_t>(word)};
  }

  [[nodiscard]] T& slot(std::uint32_t position) {
    return *std::launder(
        reinterpret_cast<T*>(slots_ + std::size_t{position % kCapacity} * sizeof(T)));
  }
  void move_out(std::uint32_t position, T& out) {
    out = std::move(slot(position));
    slot(position).~T();
  }

  // Thieves write the one and only read the other.
  alignas(kCacheLineBytes) Atomic<std::uint64_t> word_{(std::uint64_t{kStart} << 32) | kStart};
  alignas(kCacheLineBytes) Atomic<std::uint32_t> end_{kStart};  ///< written by the owner alone
  alignas(kCacheLineBytes) alignas(T) std::byte slots_[kCapacity * sizeof(T)];
};

/// Room for one value that the owner runs before its ring: what a task has just submitted is warm
/// in the cache, and mostly what it waits for. Anybody may take the value.
///
/// Thread-safe: put() and displace() by the owner only, take() by anyone. Owns its value.
template <typename T, template <typename> class Atomic = std::atomic>
class WorkerSlot {
 public:
  WorkerSlot() = default;
  WorkerSlot(const WorkerSlot&) = delete;
  WorkerSlot& operator=(const WorkerSlot&) = delete;
  ~WorkerSlot() {
    if (full()) {
      held().~T();
    }
  }

  /// Owner. False: full, or somebody is just taking the value out; `value` is untouched.
  [[nodiscard]] bool put(T& value) {
    if (state_.load(std::memory_order_acquire) != kEmpty) {
      return false;
    }
    ::new (static_cast<void*>(storage_)) T(std::move(value));
    state_.store(kFull, std::memory_order_release);
    return true;
  }

  [[nodiscard]] bool take(T& out) {
    std::uint32_t seen = kFull;
    if (state_.load(std::memory_order_relaxed) != kFull ||
        !state_.compare_exchange_strong(seen, kTaken, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
      return false;
    }
    out = std::move(held());
    held().~T();
    state_.store(kEmpty, std::memory_order_release);
    return true;
  }

  /// Owner. Exchanges `value` for the one held; false: none is, or somebody is just taking it.
  [[nodiscard]] bool displace(T& value) {
    std::uint32_t seen = kFull;
    if (state_.load(std::memory_order_relaxed) != kFull ||
        !state_.compare_exchange_strong(seen, kTaken, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
      return false;
    }
    T old = std::move(held());
    held() = std::move(value);
    value = std::move(old);
    state_.store(kFull, std::memory_order_release);
    return true;
  }

  [[nodiscard]] bool full() const { return state_.load(std::memory_order_acquire) == kFull; }

 private:
  static constexpr std::uint32_t kEmpty = 0;
  static constexpr std::uint32_t kFull = 1;
  static constexpr std::uint32_t kTaken = 2;  ///< being moved out

  [[nodiscard]] T& held() { return *std::launder(reinterpret_cast<T*>(storage_)); }

  alignas(kCacheLineBytes) Atomic<std::uint32_t> state_{kEmpty};
  alignas(T) std::byte storage_[sizeof(T)];
};

}  // namespace weir::schedule
