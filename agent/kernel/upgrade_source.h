// SPDX-License-Identifier: Apache-2.0
//
// A pinned map of an earlier agent, of this build or another one, with the layout of its values.
//
// Thread-safety: one thread; move-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "agent/base/result.h"
#include "agent/kernel/fd.h"
#include "agent/kernel/upgrade_layout.h"

struct bpf_map;
struct bpf_object;

namespace weir::kernel {

struct OldMap {
  std::string path;
  Fd fd;
  std::uint32_t id = 0;
  std::uint32_t type = 0;
  std::uint32_t key_bytes = 0;
  std::uint32_t value_bytes = 0;
  std::uint32_t entries = 0;
  std::uint32_t flags = 0;
  Layout layout;  ///< of its values; empty when it has no BTF
};

/// Unset when nothing is pinned there.
Result<std::optional<OldMap>> open_old_map(const std::string& path);

/// Layout of the values of a map of the object, which need not be loaded.
Result<Layout> layout_in(const bpf_object* object, const bpf_map* map);

/// Whether programs that were made for `map` can use `old`.
Result<bool> is_usable(const OldMap& old, const bpf_object* object, const bpf_map* map);

/// Whether both are pins of one map.
[[nodiscard]] bool same_map(const OldMap& one, const OldMap& other);

/// The memory of a BPF_F_MMAPABLE array whatever its values are.
class MappedBytes {
 public:
  static Result<MappedBytes> map(const OldMap& map);
  MappedBytes() = default;
  MappedBytes(MappedBytes&& other) noexcept : span_(std::exchange(other.span_, {})) {}
  MappedBytes& operator=(MappedBytes&& other) noexcept {
    std::swap(span_, other.span_);
    return *this;
  }
  ~MappedBytes();
  [[nodiscard]] std::span<std::byte> span() const { return span_; }

 private:
  std::span<std::byte> span_;
};

/// Distance of two values in the memory of an array, and of those of two CPUs.
[[nodiscard]] constexpr std::size_t value_stride(std::size_t value_bytes) {
  return (value_bytes + 7) / 8 * 8;
}

/// Sum over all CPUs of the u64 that make up one value of a per-CPU array; zeroes them. Only while
/// no program counts there.
Result<std::vector<std::uint64_t>> take_sums(const OldMap& map, std::uint32_t key);

}  // namespace weir::kernel
