// SPDX-License-Identifier: Apache-2.0
//
// Which sequences have a slot of the context, and which are parked until there is one.
//
// There are as many slots as sequences are decoded together. When all are taken and a request of a
// higher level comes, or when a sequence needs cells and none is free, the sequence that is worth
// least (lowest level, latest deadline, latest admission) is parked: a copy of its cells goes to
// host memory within a budget, and comes back when there is room; without a copy its tokens are
// computed again.
//
// Thread-compatible: the engine thread. Owns the sequences; KV cache and counts must outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "agent/model/engine_reading.h"
#include "agent/model/kv_store.h"
#include "agent/model/parking_lot.h"
#include "agent/model/sequence.h"

namespace weir::model {

class SlotTable {
 public:
  /// Counts parks, restores, recomputes and prefixes in `counts`.
  SlotTable(KvStore& kv, std::uint64_t park_bytes, EngineReading& counts);

  /// The index is the sequence id.
  [[nodiscard]] std::span<const Slot> slots() const { return slots_; }
  [[nodiscard]] Sequence& at(std::size_t slot) { return *slots_[slot]; }
  [[nodiscard]] const ParkingLot<Sequence>& parked() const { return lot_; }

  /// Sequences that have a slot.
  [[nodiscard]] std::size_t active() const { return active_; }
  /// And those that are parked.
  [[nodiscard]] std::size_t size() const { return active_ + lot_.size(); }
  /// Of all, those whose listener wants no more for now, as look_who_rests() found them.
  [[nodiscard]] std::size_t resting() const { return resting_; }
  void look_who_rests();

  /// How many would get a slot now, the most urgent being of `level` (unset: not known). Those that
  /// were parked and are no less urgent go first.
  [[nodiscard]] std::size_t room(std::optional<std::int32_t> level) const;

  /// Gives it a slot, somebody's who is less urgent if need be, or parks it.
  void admit(Slot sequence);
  void resume_parked();
  void park(std::size_t slot);
  /// The one that is worth least. Precondition: there is one.
  void park_least();

  /// The sequence is gone. `keep_cells`: what it leaves may be of use.
  [[nodiscard]] Slot remove(std::size_t slot, bool keep_cells);
  /// Precondition: it is parked.
  [[nodiscard]] Slot remove_parked(const Urgency& urgency);

 private:
  using Condition = std::function<bool(const Sequence&)>;

  void place(Slot sequence);
  /// Into a slot of its own; false: there is no room yet.
  bool resume(const Urgency& urgency);
  /// The one that is worth least of those for which `may` is true.
  [[nodiscard]] std::optional<std::size_t> least(const Condition& may) const;

  KvStore& kv_;
  EngineReading& counts_;
  std::vector<Slot> slots_;
  ParkingLot<Sequence> lot_;
  std::size_t active_ = 0;
  std::size_t resting_ = 0;
};

}  // namespace weir::model
