// SPDX-License-Identifier: Apache-2.0
//
// What a loaded model has in memory, by what it is for.
//
// A plain value.
#pragma once

#include <cstdint>
#include <optional>

namespace weir::model {

struct MemoryReading {
  std::uint64_t mapped_bytes = 0;  ///< of the files; 0: nothing is loaded
  /// Of those: in memory, as seen some seconds ago at most. Unset: not looked at yet, or the kernel
  /// does not tell.
  std::optional<std::uint64_t> resident_bytes;
  std::uint64_t copied_bytes = 0;   ///< weights once more, in the order in which they are computed
  std::uint64_t kv_bytes = 0;       ///< cells of all sequences
  std::uint64_t compute_bytes = 0;  ///< what a step computes with, and a long prompt beside it
  std::uint64_t output_bytes = 0;   ///< logits

  [[nodiscard]] std::uint64_t all() const {
    return mapped_bytes + copied_bytes + kv_bytes + compute_bytes + output_bytes;
  }
  void add(const MemoryReading& other) {
    mapped_bytes += other.mapped_bytes;
    if (other.resident_bytes) {
      resident_bytes = resident_bytes.value_or(0) + *other.resident_bytes;
    }
    copied_bytes += other.copied_bytes;
    kv_bytes += other.kv_bytes;
    compute_bytes += other.compute_bytes;
    output_bytes += other.output_bytes;
  }
};

}  // namespace weir::model
