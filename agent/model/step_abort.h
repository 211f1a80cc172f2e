// SPDX-License-Identifier: Apache-2.0
//
// When a step is stopped before its end. A step that has somebody in it who leaves (cancelled, or
// past the deadline) and goes on for longer than kPatience is stopped at a node of the graph; so is
// a step of prompts that are less urgent than a request that waits and would get room. Until the
// time that was lost so has been made good, no step is stopped for anybody, and all are to be short
// instead: whoever sends and cancels costs the others half of the time at most, and hears of it
// within a short step.
//
// Thread-compatible: the engine thread. What it refers to must outlive it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "agent/base/clock.h"
#include "agent/model/slot_table.h"
#include "agent/model/step_cost.h"

namespace weir::model {

class StepAbort {
 public:
  /// Level of the most urgent request that waits; unset: none does. Called by the engine thread,
  /// also in the middle of a decode: must not block.
  using Waiting = std::function<std::optional<std::int32_t>()>;

  /// How long a step goes on with somebody in it who leaves: most end sooner by themselves.
  static constexpr Duration kPatience = std::chrono::milliseconds(2);
  /// A step that should end within this is not stopped.
  static constexpr Duration kNearEnd = std::chrono::milliseconds(3);

  /// `goes_back`: a stopped step can be taken up again. `stopping`: when it becomes true, any step
  /// is stopped.
  StepAbort(const SlotTable& table, bool goes_back, const Clock& clock,
            const std::atomic<bool>& stopping, Waiting waiting);

  /// A step begins, which should take `expected`; zero: not known.
  void begin(const StepShape& shape, Duration expected);
  /// For llama_set_abort_callback(): called between nodes of the graph, with a StepAbort.
  static bool should_abort(void* self);
  /// Whether the step was stopped for a more urgent request.
  [[nodiscard]] bool preempted() const { return preempted_; }

  /// Since the step began.
  [[nodiscard]] Duration took() const { return clock_.now() - started_; }
  /// A step that was stopped took so long, and others have to decode again.
  void lost(Duration took) { lost_ += took; }
  /// A step took so long, and was not stopped.
  void made_good(Duration took);
  /// Steps are to be short for now.
  [[nodiscard]] bool hurry() const { return lost_ > Duration::zero(); }

 private:
  [[nodiscard]] bool wanted();
  [[nodiscard]] bool leaver_wants(std::optional<TimePoint> now);
  [[nodiscard]] bool urgent_wants(TimePoint now);

  const SlotTable& table_;
  const bool goes_back_;
  const Clock& clock_;
  const std::atomic<bool>& stopping_;
  const Waiting waiting_;
  Duration lost_{};  ///< and not made good since
  // Of the step under way.
  bool has_prompts_ = false;
  TimePoint started_{};
  Duration expected_{};
  std::size_t nodes_ = 0;                    ///< of the graph, so far
  std::optional<TimePoint> leaver_noticed_;  ///< since when there is one
  TimePoint asked_waiting_{};                ///< when waiting_ was called last
  bool preempted_ = false;
};

}  // namespace weir::model
