// SPDX-License-Identifier: Apache-2.0
//
// A number that never exceeds its limit: bytes set aside, requests in progress.
//
// Thread-safe, without locks. Exact: one that does not fit changes nothing, not even for an
// instant. A limit that is lowered below what is there lets nothing more in until it is gone.
#pragma once

#include <atomic>
#include <cstdint>

namespace weir::admit {

class BoundedCount {
 public:
  explicit BoundedCount(std::uint64_t limit) : limit_(limit) {}

  [[nodiscard]] bool try_add(std::uint64_t amount) {
    const std::uint64_t limit = this->limit();
    std::uint64_t now = value_.load(std::memory_order_relaxed);
    do {
      if (amount > limit || now > limit - amount) return false;
    } while (!value_.compare_exchange_weak(now, now + amount, std::memory_order_relaxed));
    return true;
  }

  void subtract(std::uint64_t amount) { value_.fetch_sub(amount, std::memory_order_relaxed); }

  [[nodiscard]] std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(std::uint64_t limit) { limit_.store(limit, std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> limit_;
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace weir::admit
