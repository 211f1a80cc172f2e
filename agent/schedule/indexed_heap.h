// SPDX-License-Identifier: Apache-2.0
//
// A binary min-heap of numbers that name things elsewhere. It tells each thing its place, so that
// one can be removed from the middle, or moved after its key has changed. All O(log n).
//
// Thread-compatible: the owner locks. Owns the numbers only.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace weir::schedule {

class IndexedHeap {
 public:
  [[nodiscard]] bool empty() const { return heap_.empty(); }
  [[nodiscard]] std::size_t size() const { return heap_.size(); }
  /// Precondition: not empty.
  [[nodiscard]] std::size_t top() const { return heap_.front(); }
  /// What stands at `place`; the children of p stand at 2p + 1 and 2p + 2, if these are < size().
  [[nodiscard]] std::size_t at(std::size_t place) const { return heap_[place]; }

  /// `order` has bool before(a, b), and std::size_t& place(a), where the heap keeps its place.
  template <typename Order>
  void push(const Order& order, std::size_t id) {
    heap_.push_back(id);
    sift_up(order, heap_.size() - 1);
  }

  /// Precondition: `id` is in this heap.
  template <typename Order>
  void remove(const Order& order, std::size_t id) {
    const std::size_t place = order.place(id);
    const std::size_t last = heap_.back();
    heap_.pop_back();
    if (place < heap_.size()) {
      heap_[place] = last;
      order.place(last) = place;
      moved(order, last);
    }
  }

  /// The key of `id`, which is in this heap, has changed.
  template <typename Order>
  void moved(const Order& order, std::size_t id) {
    // It may belong above or below its place; one of the two does nothing.
    sift_up(order, order.place(id));
    sift_down(order, order.place(id));
  }

 private:
  template <typename Order>
  void sift_up(const Order& order, std::size_t place) {
    const std::size_t id = heap_[place];
    while (place > 0) {
      const std::size_t parent = (place - 1) / 2;
      if (!order.before(id, heap_[parent])) break;
      set(order, place, heap_[parent]);
      place = parent;
    }
    set(order, place, id);
  }

  template <typename Order>
  void sift_down(const Order& order, std::size_t place) {
    const std::size_t id = heap_[place];
    for (;;) {
      std::size_t child = 2 * place + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && order.before(heap_[child + 1], heap_[child])) ++child;
      if (!order.before(heap_[child], id)) break;
      set(order, place, heap_[child]);
      place = child;
    }
    set(order, place, id);
  }

  template <typename Order>
  void set(const Order& order, std::size_t place, std::size_t id) {
    heap_[place] = id;
    order.place(id) = place;
  }

  std::vector<std::size_t> heap_;
};

}  // namespace weir::schedule
