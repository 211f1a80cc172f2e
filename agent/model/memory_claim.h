// SPDX-License-Identifier: Apache-2.0
//
// The memory that a version of a model asks for: what only it has, and the weights, which it has
// together with all that are loaded from the same file.
//
// A plain value.
#pragma once

#include <cstdint>
#include <string>

namespace weir::model {

struct MemoryClaim {
  std::uint64_t own_bytes = 0;
  std::uint64_t weights_bytes = 0;  ///< count once for all with the same weights
  std::string weights;              ///< names them; empty: nobody else can have them

  [[nodiscard]] std::uint64_t all() const { return own_bytes + weights_bytes; }
};

}  // namespace weir::model
