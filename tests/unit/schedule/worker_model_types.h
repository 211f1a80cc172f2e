// SPDX-License-Identifier: Apache-2.0
//
// What code under the model checker uses in place of std::atomic, std::mutex and plain memory: each
// access is a step of the explorer (worker_interleavings.h), or is checked for races.
//
// Not thread-safe, as the explorer.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "tests/unit/schedule/worker_interleavings.h"

namespace weir::schedule::model {

template <typename T>
class Atomic {
 public:
  Atomic() = default;
  explicit(false) Atomic(T value) : value_(value) {}
  Atomic(const Atomic&) = delete;
  Atomic& operator=(const Atomic&) = delete;

  [[nodiscard]] T load(std::memory_order order) const {
    Explorer* const explorer = Explorer::inside();
    if (explorer == nullptr) {
      return value_;
    }
    explorer->halt({this, false, {}});
    const auto& buffer = explorer->buffer();
    for (auto own = buffer.rbegin(); own != buffer.rend(); ++own) {
      if (own->where == this) {
        return static_cast<T>(own->value);
      }
    }
    if (acquires(order)) {
      join(explorer->clock(), published_);
    }
    return value_;
  }

  void store(T value, std::memory_order order) {
    Explorer* const explorer = Explorer::inside();
    if (explorer == nullptr) {
      value_ = value;
      return;
    }
    // A store ends the release sequence before it.
    const VectorClock publishes = releases(order) ? explorer->clock() : VectorClock{};
    explorer->tick();
    if (explorer->buffers_stores() && order != std::memory_order_seq_cst) {
      explorer->buffer().push_back({this,
                                    [this, value, publishes] {
                                      value_ = value;
                                      published_ = publishes;
                                    },
                                    static_cast<std::uint64_t>(value)});
      return;
    }
    explorer->drain();
    explorer->halt({this, true, {}});
    value_ = value;
    published_ = publishes;
  }

  T fetch_add(T more, std::memory_order order) {
    return change([more](T value) { return static_cast<T>(value + more); }, order);
  }
  T fetch_sub(T less, std::memory_order order) {
    return change([less](T value) { return static_cast<T>(value - less); }, order);
  }

  bool compare_exchange_strong(T& expected, T desired, std::memory_order success,
                               std::memory_order failure) {
    Explorer* const explorer = Explorer::inside();
    if (explorer != nullptr) {
      explorer->drain();
      explorer->halt({this, true, {}});
    }
    if (value_ == expected) {
      write(desired, success);
      return true;
    }
    expected = value_;
    if (explorer != nullptr && acquires(failure)) {
      join(explorer->clock(), published_);
    }
    return false;
  }
  /// Never fails without a reason: those that do are the same as an order in which it is tried
  /// later.
  bool compare_exchange_weak(T& expected, T desired, std::memory_order success,
                             std::memory_order failure) {
    return compare_exchange_strong(expected, desired, success, failure);
  }

 private:
  [[nodiscard]] static bool acquires(std::memory_order order) {
    return order == std::memory_order_acquire || order == std::memory_order_acq_rel ||
           order == std::memory_order_seq_cst;
  }
  [[nodiscard]] static bool releases(std::memory_order order) {
    return order == std::memory_order_release || order == std::memory_order_acq_rel ||
           order == std::memory_order_seq_cst;
  }

  template <typename Change>
  T change(Change&& next, std::memory_order order) {
    if (Explorer* const explorer = Explorer::inside()) {
      explorer->drain();
      explorer->halt({this, true, {}});
    }
    const T old = value_;
    write(next(old), order);
    return old;
  }

  /// The second half of a read-modify-write, which continues release sequences.
  void write(T value, std::memory_order order) {
    value_ = value;
    if (Explorer* const explorer = Explorer::inside()) {
      if (acquires(order)) {
        join(explorer->clock(), published_);
      }
      if (releases(order)) {
        join(published_, explorer->clock());
        explorer->tick();
      }
    }
  }

  T value_{};
  VectorClock published_{};  ///< what a thread that acquires this value has seen
};

/// std::mutex.
class Mutex {
 public:
  void lock() {
    Explorer& explorer = *Explorer::inside();
    explorer.drain();
    explorer.halt({this, true, [this] { return !locked_; }});
    locked_ = true;
    join(explorer.clock(), published_);
  }
  void unlock() {
    Explorer& explorer = *Explorer::inside();
    explorer.drain();
    explorer.halt({this, true, {}});
    locked_ = false;
    join(published_, explorer.clock());
    explorer.tick();
  }

 private:
  bool locked_ = false;
  VectorClock published_{};
};

/// WorkerParker. A wait with an end may end at any time.
class Parker {
 public:
  [[nodiscard]] bool wait(std::optional<Duration> timeout) {
    Explorer& explorer = *Explorer::inside();
    explorer.drain();
    if (timeout) {
      explorer.halt({this, true, {}});
    } else {
      explorer.halt({this, true, [this] { return woken_; }});
    }
    return std::exchange(woken_, false);
  }
  void wake() {
    Explorer& explorer = *Explorer::inside();
    explorer.drain();
    explorer.halt({this, true, {}});
    if (woken_) {
      explorer.fail("woken twice");
    }
    woken_ = true;
  }

 private:
  bool woken_ = false;
};

inline void fence() { Explorer::inside()->drain(); }

/// Plain memory with a number in it: every access is checked for races, and for life.
class Value {
 public:
  Value() { touch(true); }
  explicit Value(int number) : number_(number) { touch(true); }
  Value(Value&& other) noexcept : number_(other.leave()) { touch(true); }
  Value& operator=(Value&& other) noexcept {
    check_alive();
    number_ = other.leave();
    touch(true);
    return *this;
  }
  ~Value() {
    check_alive();
    touch(true);
    alive_ = kDead;
  }

  [[nodiscard]] int number() const { return number_; }

 private:
  static constexpr std::uint32_t kAlive = 0x600dbeef;
  static constexpr std::uint32_t kDead = 0xdeaddead;

  void touch(bool writes) const {
    if (Explorer* const explorer = Explorer::inside()) {
      explorer->access(this, writes);
    }
  }
  void check_alive() const {
    if (Explorer* const explorer = Explorer::inside(); explorer != nullptr && alive_ != kAlive) {
      explorer->fail("used a value that is not there");
    }
  }
  int leave() {
    check_alive();
    touch(true);
    return std::exchange(number_, 0);
  }

  std::uint32_t volatile alive_ = kAlive;
  int number_ = 0;  ///< 0: moved away
};

}  // namespace weir::schedule::model
