// SPDX-License-Identifier: Apache-2.0
//
// The maps of abi.h, opened: arrays as plain memory (mmap), the rest through system calls.
//
// Thread-safety: one thread; move-only. The kernel writes at the same time.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/kernel/data_plane.h"
#include "agent/kernel/fd.h"
#include "agent/kernel/tables.h"
#include "weir/abi.h"

namespace weir::kernel {

/// Every map, in the order of MapSet's descriptors.
enum MapId : std::size_t {
  kMeta,
  kKnobs,
  kSvc,
  kPool,
  kPick,
  kBe,
  kTotal,
  kNote,
  kSk,
  kHist,
  kStat,
  kEvent,
  kCensus,
  kMapCount
};
inline constexpr std::array<const char*, kMapCount> kMapNames = {
    WEIR_MAP_META, WEIR_MAP_KNOBS, WEIR_MAP_SVC,   WEIR_MAP_POOL, WEIR_MAP_PICK,
    WEIR_MAP_BE,   WEIR_MAP_TOTAL, WEIR_MAP_NOTE,  WEIR_MAP_SK,   WEIR_MAP_HIST,
    WEIR_MAP_STAT, WEIR_MAP_EVENT, WEIR_MAP_CENSUS};

/// Entries that map `id` has in a set with room for `backends` backends; unset: as the program
/// object says.
[[nodiscard]] std::optional<std::uint32_t> entries_for(MapId id, std::uint32_t backends);

/// Room that is made for a configuration of `needed` backends: some may still be draining.
[[nodiscard]] std::uint32_t capacity_for(std::size_t needed);

/// The memory of one BPF_F_MMAPABLE array.
template <typename T>
class MappedArray {
 public:
  static Result<MappedArray> map(int fd, std::size_t count, bool writable);
  MappedArray() = default;
  MappedArray(MappedArray&& other) noexcept : span_(std::exchange(other.span_, {})) {}
  MappedArray& operator=(MappedArray&& other) noexcept {
    std::swap(span_, other.span_);
    return *this;
  }
  ~MappedArray();
  [[nodiscard]] std::span<T> span() const { return span_; }

 private:
  std::span<T> span_;
};

class MapSet {
 public:
  using Fds = std::array<Fd, kMapCount>;

  static Result<MapSet> open(Fds fds, bool writable);

  Result<Snapshot> read();
  Result<Snapshot> read_gauges() const;

  /// Makes weir_svc hold exactly `routes`.
  Status set_routes(const std::vector<Route>& routes);
  Status zero_histograms(std::uint32_t backend);

  [[nodiscard]] TableMemory tables() const {
    return {pools_.span(), backends_.span(), totals_.span(), slots_.span()};
  }
  [[nodiscard]] weir_meta& meta() { return meta_.span()[0]; }
  [[nodiscard]] weir_knobs& knobs() { return knobs_.span()[0]; }
  [[nodiscard]] std::span<weir_be> backends() { return backends_.span(); }
  [[nodiscard]] std::span<weir_total> totals() { return totals_.span(); }
  [[nodiscard]] std::span<weir_pool> pools() { return pools_.span(); }
  [[nodiscard]] std::span<weir_census> census() { return census_.span(); }
  [[nodiscard]] int fd(MapId id) const { return fds_[id].get(); }

 private:
  using Histograms = std::array<Histogram, WEIR_HIST_KINDS>;
  /// What was read last of one backend, and what it had counted by then.
  struct CachedHistograms {
    std::uint64_t counted = 0;
    std::shared_ptr<const Histograms> histograms;
  };

  Status read_histograms(BackendReading& reading);

  Fds fds_;
  std::vector<CachedHistograms> cache_;
  MappedArray<weir_meta> meta_;
  MappedArray<weir_knobs> knobs_;
  MappedArray<weir_pool> pools_;
  MappedArray<weir_pick_slot> slots_;
  MappedArray<weir_be> backends_;
  MappedArray<weir_total> totals_;
  MappedArray<weir_census> census_;
};

/// Opens the pins in a version directory. kNotFound when nothing is pinned there, kUnsupported when
/// their layout is not that of this build.
Result<MapSet> open_pinned_maps(const std::string& version_dir, bool writable);

/// Who wrote the maps pinned there; for messages.
Result<weir_meta> read_pinned_meta(const std::string& version_dir);

}  // namespace weir::kernel
