// SPDX-License-Identifier: Apache-2.0
//
// Iteration-level batching over one loaded model: every step is one llama_decode() with the next
// token of each sequence that generates and chunks of the prompts of those that do not yet. What
// goes into a step is planned by time (step_plan.h), from what steps have cost so far
// (step_cost.h). A sequence whose listener wants no more for now rests: it keeps its cells and is
// left out of the steps.
//
// Room. There are as many places as sequences are decoded together. When all are taken and a
// request of a higher level comes, or when a sequence needs cells and none is free, the sequence
// that is worth least (lowest level, latest deadline, latest admission) is parked: a copy of its
// cells goes to host memory within a budget, and comes back when there is room; without a copy its
// tokens are computed again. No request fails because another one took the cells. The one that is
// worth most is never parked for cells, so there is always one that goes on.
//
// Prompts that begin like what another sequence has, or has left, are not computed again: cells
// are shared or copied (kv_store.h). A prompt that begins like one that is being computed waits for
// that one. Output at temperature 0 is the same with and without, alone and in a batch, as far as
// libllama computes the same numbers for batches of different shape: it does but for rounding.
//
// Requests that were cancelled or are past their deadline leave between steps. A step that has one
// of them in it and goes on for longer than kPatience is stopped at a node of the graph; so is a
// step of prompts that are less urgent than a request that waits and would get room. Work resumes
// from the last part of the step that libllama had finished. Until the time that was lost has been
// made good, no step is stopped for anybody, and all steps are short instead: whoever sends and
// cancels costs the others half of the time at most, and hears of it within a short step.
//
// Thread-compatible: one engine thread. Owns the model and the running requests; calls on_text() of
// their listeners itself and hands their ends back as outcomes, each request exactly once. The
// clock, the stop flag and what `waiting` uses must outlive it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/engine_reading.h"
#include "agent/model/generation.h"
#include "agent/model/kv_store.h"
#include "agent/model/llama_handles.h"
#include "agent/model/loaded_model.h"
#include "agent/model/parking_lot.h"
#include "agent/model/request_queue.h"
#include "agent/model/sequence.h"
#include "agent/model/step_cost.h"
#include "agent/model/step_plan.h"

namespace weir::model {

/// What happened since the report was made.
struct StepReport {
  std::vector<Outcome> ended;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t completion_tokens = 0;
  std::uint64_t decode_steps = 0;
  std::uint64_t decode_aborts = 0;
};

struct RunnerOptions {
  std::uint64_t park_bytes = kDefaultParkBytes;  ///< for copies of parked sequences
  bool prefix_reuse = true;
};

class BatchRunner {
 public:
  /// Level of the most urgent request that waits; unset: none does. Called by the engine thread,
  /// also in the middle of a decode: must not block.
  using Waiting = std::function<std::optional<std::int32_t>()>;

  /// `stopping`: when it becomes true, a decode in progress is aborted.
  BatchRunner(LoadedModel model, const Clock& clock, const std::atomic<bool>& stopping,
              const RunnerOptions& options = {}, Waiting waiting = {});
  BatchRunner(const BatchRunner&) = delete;
  BatchRunner& operator=(const BatchRunner&) = delete;
  ~BatchRunner();

  /// How long a step goes on with somebody in it who leaves: most end sooner by themselves.
  static constexpr Duration kPatience = std::chrono::milliseconds(2);
  /// A step that should end within this is not stopped.
  static constexpr Duration kNearEnd = std::chrono::milliseconds(4);

  /// Requests that were admitted and have not ended, parked ones included.
  [[nodiscard]] std::size_t running() const { return active_ + lot_.size(); }
  /// Of those, as the last step found them.
  [[nodiscard]] std::size_t resting() const { return resting_; }
  [[nodiscard]] const LoadedModel& model() const { return model_; }

  /// How many requests to admit now, when the most urgent that waits is of `level` (unset: not
  /// known). Those that were parked and are no less urgent go first.
  [[nodiscard]] std::size_t room(std::optional<std::int32_t> level) const;

  /// Gives the prompt a place, or parks it, or somebody less urgent for it; a request that cannot
  /// run ends in the report.
  void admit(Taken taken, StepReport& report);

  /// Ends those that were cancelled or are past their deadline.
  void let_go(StepReport& report);

  /// One decode for all that run and do not rest. Does nothing when all rest.
  void step(StepReport& report);

  /// Ends everything that runs with `error`; cancelled requests with kCancelled.
  void fail_all(const Error& error, StepReport& report);

  [[nodiscard]] EngineReading reading() const;

 private:
  using Slot = std::unique_ptr<Sequence>;  ///< the index is the sequence id; null: free

  /// Moves from `taken` when it succeeds.
  Result<Slot> make_sequence(Taken& taken) const;

  // Room.
  void place(Slot sequence);
  void park(std::size_t slot);
  /// Into a place of its own; false: there is no room yet.
  bool resume(const Urgency& urgency);
  void resume_parked();
  /// The one that is worth least of those for which `may` is true.
  template <typename Condition>
  [[nodiscard]] std::optional<std::size_t> least(Condition may) const;
  void look_who_rests();

  // Prefixes.
  /// That so many of its tokens have come from others.
  void count_shared(Sequence& sequence, std::size_t there);
  /// Takes over what others have of the prompt; true: somebody is computing more of it just now.
  bool share_prefix(std::size_t slot);
  [[nodiscard]] const Sequence* active(std::uint64_t admission) const;

  // A step.
  [[nodiscard]] StepPlan make_plan();
  /// A plan for which there are cells.
  [[nodiscard]] StepPlan make_room_for_plan();
  void fill_batch(const StepPlan& plan);
  /// Decodes; false when there is nothing to sample.
  bool decode(StepReport& report);
  void advance(Sequence& sequence, std::size_t slot, std::size_t tokens, StepReport& report);
  void take_token(std::size_t slot, StepReport& report);
  void complete(std::size_t slot, FinishReason reason, StepReport& report);
  void end(std::size_t slot, std::variant<Completion, Error> result, StepReport& report);
  void hand_back(Sequence& sequence, std::variant<Completion, Error> result, StepReport& report);
  /// After a decode that was stopped: whatever was finished stays, and is counted.
  [[nodiscard]] bool restore(StepReport& report);
  /// After a decode that was not, and took so long.
  void learn(Duration took);
  [[nodiscard]] bool abort_wanted();
  [[nodiscard]] bool leaver_wants_abort(std::optional<TimePoint> now);
  [[nodiscard]] bool urgent_wants_abort(TimePoint now);
  static bool should_abort(void* self);

  LoadedModel model_;
  const Clock& clock_;
  const std::atomic<bool>& stopping_;
  const Waiting waiting_;
  const std::size_t step_tokens_;
  KvStore kv_;
  Batch batch_;
  std::vector<Slot> slots_;
  ParkingLot<Sequence> lot_;
  std::size_t active_ = 0;  ///< sequences that have a slot
  std::size_t resting_ = 0;
  std::uint64_t admissions_ = 0;
  StepCost cost_;
  Duration lost_{};  ///< by stopped steps, and not made good since
  EngineReading counts_;
  // Of the decode under way.
  StepShape shape_;
  TimePoint started_{};
  Duration expected_{};                      ///< zero: not known
  std::size_t nodes_ = 0;                    ///< of the graph, so far
  std::optional<TimePoint> leaver_noticed_;  ///< since when there is one
  TimePoint asked_waiting_{};                ///< when waiting_ was called last
  bool preempted_ = false;
};

}  // namespace weir::model
