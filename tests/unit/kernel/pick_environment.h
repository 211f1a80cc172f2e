// SPDX-License-Identifier: Apache-2.0
//
// What bpf/lib/pick.bpf.h asks of whoever includes it, as plain arrays: the pick of the kernel
// programs, compiled for a test.
//
// Thread-safety: none; one environment at a time.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "weir/abi.h"

namespace weir::kernel {

struct PickEnvironment {
  std::vector<weir_pick_slot> slots;
  std::vector<weir_be> backends;
  std::mt19937 random{1};
  std::uint64_t now_ms = 1'000'000;

  static PickEnvironment*& current() {
    static PickEnvironment* environment = nullptr;
    return environment;
  }
  PickEnvironment() { current() = this; }
  ~PickEnvironment() { current() = nullptr; }
  PickEnvironment(const PickEnvironment&) = delete;
  PickEnvironment& operator=(const PickEnvironment&) = delete;
};

}  // namespace weir::kernel

inline weir_pick_slot* weir_slot_at(weir_u32 index) {
  auto& slots = weir::kernel::PickEnvironment::current()->slots;
  return index < slots.size() ? &slots[index] : nullptr;
}

inline weir_be* weir_be_at(weir_u32 index) {
  auto& backends = weir::kernel::PickEnvironment::current()->backends;
  return index < backends.size() ? &backends[index] : nullptr;
}

inline void weir_be_prefetch(weir_u32) {}

inline weir_u32 weir_random() {
  return static_cast<weir_u32>(weir::kernel::PickEnvironment::current()->random());
}

inline weir_u64 weir_now_ms() { return weir::kernel::PickEnvironment::current()->now_ms; }

#include "bpf/lib/pick.bpf.h"
