// SPDX-License-Identifier: Apache-2.0
//
// A long prompt, computed beside sequences that generate: in wide passes of a context of its own,
// which are interrupted for a step of everybody else whenever a slice of time is over. When all but
// the last token of it has been computed, the sequence moves into the cells of its slot, and goes
// on there like any other. (Measured on 2 CPUs with 135 M parameters, 1500 tokens beside 4 streams:
// 32 tokens in a step take 64 ms after none and 150 ms after 1500 others; in wide passes 32 tokens
// take 45 ms on average, to be had in any portions.)
//
// At most one prompt at a time (step_plan.h says which). When its request leaves meanwhile, or its
// sequence loses its slot, what was computed is dropped. If the cells cannot be had in the end, the
// prompt is computed in chunks.
//
// Thread-compatible: the engine thread. What it refers to must outlive it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "agent/base/clock.h"
#include "agent/model/engine_reading.h"
#include "agent/model/kv_store.h"
#include "agent/model/prefill_context.h"
#include "agent/model/slot_table.h"
#include "agent/model/step_plan.h"

namespace weir::model {

class SlicedPrefill {
 public:
  /// A step of everybody else, with what belongs to it: requests come and leave, listeners hear.
  using Meanwhile = std::function<void()>;

  /// Without context or `meanwhile` there is never one. Counts in `counts`.
  SlicedPrefill(PrefillContext* context, SlotTable& table, KvStore& kv, const Clock& clock,
                const std::atomic<bool>& stopping, Meanwhile meanwhile, EngineReading& counts);

  /// The longest sequence that can be computed here; 0: none now, one is being computed.
  [[nodiscard]] std::size_t longest() const;
  /// Whether this is the one that is being computed.
  [[nodiscard]] bool computes(const Sequence& sequence) const {
    return computing_ && admission_ == sequence.urgency.admission;
  }
  /// A step was planned: `slice` until the next one, and which prompt is to be computed here.
  void follow(const StepPlan& plan);

  /// Whether run() is to be called, before the next step.
  [[nodiscard]] bool due() const { return admission_ && !computing_; }
  /// Computes the prompt, with steps of the others between. Returns how many tokens of it were
  /// computed for the first time.
  std::size_t run();

 private:
  /// Null: it has left, or has no slot.
  [[nodiscard]] Sequence* find(std::size_t& slot) const;
  /// Lets the others have their step when the slice is over; false: stop.
  [[nodiscard]] bool look();
  /// Of the sequence into its slot.
  void hand_over(Sequence& sequence, std::size_t slot, std::size_t tokens);

  PrefillContext* const context_;
  SlotTable& table_;
  KvStore& kv_;
  const Clock& clock_;
  const std::atomic<bool>& stopping_;
  const Meanwhile meanwhile_;
  EngineReading& counts_;

  std::optional<std::uint64_t> admission_;  ///< of the prompt; unset: none
  bool computing_ = false;
  Duration slice_{};
  TimePoint since_{};   ///< when the slice began
  TimePoint looked_{};  ///< when look() was called last, or the others had their step
  Duration longest_{};  ///< between two of these, in the pass under way
};

}  // namespace weir::model
