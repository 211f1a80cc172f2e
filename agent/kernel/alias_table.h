// SPDX-License-Identifier: Apache-2.0
//
// Weights to a Walker alias table, by Vose's method (M. D. Vose, 1991): O(n) to build, O(1) to draw
// from, in the kernel (bpf/lib/pick.bpf.h).
//
// Thread-safe: a pure function.
#pragma once

#include <cstdint>
#include <vector>

#include "weir/abi.h"

namespace weir::kernel {

struct WeightedBackend {
  std::uint32_t index = 0;  ///< into weir_be, below WEIR_MAX_BACKENDS
  double weight = 0;        ///< finite, >= 0; relative
};

/// One slot for each backend of positive weight, in their order; a draw yields each backend with
/// its share of the sum, to within 2^-32 per slot. No positive weight: no slot.
[[nodiscard]] std::vector<weir_pick_slot> build_alias_table(
    const std::vector<WeightedBackend>& backends);

}  // namespace weir::kernel
