// SPDX-License-Identifier: Apache-2.0
//
// What becomes of the maps that an earlier agent left:
//
//   adopt         the same layout and room enough: the new programs use them
//   copy forward  made for fewer backends, or by another version: new maps, to which everything
//   that
//                 was counted moves while steering goes on (upgrade_carry.h)
//   refuse        where that would be wrong: with map and field, and nothing is touched
//
// New maps are pinned beside the old ones, in "staging/" while they are made. begin() renames that
// to "next/": from then on a start that is interrupted is taken up by the next one. finish() moves
// the pins to their places, each by one rename.
//
// Socket state (weir_sk) is kept when its layout is the same. If not, the connections of the old
// programs are taken in again by adoption, and what is in flight is counted from there.
//
// Thread-safety: one thread; move-only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/kernel/map_set.h"
#include "agent/kernel/pin_dir.h"
#include "agent/kernel/tables.h"
#include "agent/kernel/upgrade_carry.h"
#include "agent/kernel/upgrade_source.h"

struct bpf_object;
struct bpf_program;
struct weir_carry;

namespace weir::kernel {

class Upgrade {
 public:
  /// Decides. Prepares `object`, which is opened but not loaded: the sizes of its maps, those that
  /// it shares with the earlier agent, whether weir_carry is loaded. `object` and `pins` must
  /// outlive this. kUnsupported when it has to refuse.
  static Result<Upgrade> prepare(bpf_object* object, const PinDir& pins,
                                 std::size_t backends_needed);

  Upgrade(Upgrade&& other) noexcept;
  Upgrade& operator=(Upgrade&&) = delete;
  /// Before begin(), nothing stays of new maps.
  ~Upgrade();

  /// After the object was loaded: pins the maps that are new, opens them all, fills them with the
  /// records of the old ones. Tables can be configured then.
  Result<MapSet> open_maps();
  /// From here on the old maps are changed. Gives the pools of new maps the shares in force.
  Status begin(MapSet& maps, Tables& tables);
  /// After the programs in all links were replaced. `tracing_programs`: those that were attached to
  /// tracepoints before, by id.
  Status finish(MapSet& maps, const std::vector<std::uint32_t>& tracing_programs);

  /// Whether what an earlier agent counted goes to new maps.
  [[nodiscard]] bool copies() const { return carries_tables_; }

 private:
  enum class Stage { kPrepared, kStaged, kBegun };

  Upgrade(bpf_object* object, const PinDir& pins) : object_(object), pins_(&pins) {}

  Status recover();
  Status find_old_maps();
  Status choose_maps(std::size_t backends_needed);
  Status reuse_next();
  Status check_tables() const;
  Result<UpgradeCarry> make_carry(const MapSet& maps);
  Status carry_per_cpu(const MapSet& maps) const;
  Status add_sums(const weir_carry& sums) const;
  Status move_pins() const;
  [[nodiscard]] bool carries_stats() const { return old_[kStat] && !reused_[kStat]; }

  bpf_object* object_;
  const PinDir* pins_;
  std::optional<std::string> from_;  ///< directory of the old maps
  std::array<std::optional<OldMap>, kMapCount> old_;
  std::array<bool, kMapCount> reused_{};
  bool resumed_ = false;         ///< an upgrade that was interrupted goes on
  bool carries_tables_ = false;  ///< backends and pools move to new maps
  bool sockets_kept_ = false;
  Stage stage_ = Stage::kPrepared;
  TimePoint begun_;
  std::array<MappedBytes, 3> memory_;
  std::optional<UpgradeCarry> carry_;
};

}  // namespace weir::kernel
