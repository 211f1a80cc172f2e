// SPDX-License-Identifier: Apache-2.0
//
// A queue of fixed capacity whose memory is taken once: the load loop must not allocate.
//
// Thread-compatible: one thread at a time. push() on a full ring and pop() on an empty one are the
// caller's mistakes; size() and capacity() are there to ask first.
#pragma once

#include <cstddef>
#include <vector>

namespace weir::bench {

template <typename T>
class Ring {
 public:
  explicit Ring(std::size_t capacity) : slots_(capacity) {}

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t capacity() const { return slots_.size(); }

  void push(T value) {
    std::size_t at = first_ + size_;
    if (at >= slots_.size()) at -= slots_.size();
    slots_[at] = value;
    ++size_;
  }

  T pop() {
    const T value = slots_[first_];
    if (++first_ == slots_.size()) first_ = 0;
    --size_;
    return value;
  }

  void clear() { first_ = size_ = 0; }

 private:
  std::vector<T> slots_;
  std::size_t first_ = 0;
  std::size_t size_ = 0;
};

}  // namespace weir::bench
