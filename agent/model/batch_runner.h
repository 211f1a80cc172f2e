// SPDX-License-Identifier: Apache-2.0
//
// Iteration-level batching over one loaded model: every step is one llama_decode() with the next
// token of each sequence that generates and chunks of the prompts of those that do not yet. What
// goes into a step is planned by time (step_plan.h), from what steps have cost so far
// (step_cost.h). A sequence whose listener wants no more for now rests: it keeps its cells and is
// left out of the steps.
//
// Who has a place in the steps, and who makes room: slot_table.h. Prompts that begin alike are
// computed once: prefix_sharing.h. Output at temperature 0 is the same with and without, alone and
// in a batch, as far as libllama computes the same numbers for batches of different shape: it does
// but for rounding.
//
// libllama decodes chunks of one length together, and each other length costs a pass. A prompt that
// ends a little earlier than another one of the step gets tokens that mean nothing after its last
// one: what comes later changes nothing before it, and they are cut off again.
//
// Where that pays, the next tokens of a sequence are guessed and computed in the same step
// (speculation.h). Each is sampled from its own logits, by the sequence's own sampler and in order,
// and a guess counts only where it is what was sampled: what comes out is what would have come out
// without, whatever the sampling. The rest of the guesses is cut off again.
//
// A long prompt beside sequences that generate is computed between the steps (sliced_prefill.h).
//
// No request fails because another one took the cells. The one that is worth most is never parked
// for cells, so there is always one that goes on.
//
// Requests that were cancelled or are past their deadline leave between steps; step_abort.h says
// when a step is stopped for them. Work resumes from the last part of the step that libllama had
// finished.
//
// Thread-compatible: one engine thread. Owns the model and the running requests; calls on_text() of
// their listeners itself and hands their ends back as outcomes, each request exactly once. The
// clock, the stop flag and what `waiting` uses must outlive it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
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
#include "agent/model/request_queue.h"
#include "agent/model/sliced_prefill.h"
#include "agent/model/slot_table.h"
#include "agent/model/speculation.h"
#include "agent/model/step_abort.h"
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
  /// Guessed tokens of one step; the context must have been made for as many logits. Unset: none.
  std::optional<std::uint32_t> max_draft_tokens{};
  /// Steps this runner, and what belongs to a step, while step() computes a prompt in slices
  /// (sliced_prefill.h). Empty: none is.
  SlicedPrefill::Meanwhile meanwhile{};
};

class BatchRunner {
 public:
  using Waiting = StepAbort::Waiting;

  /// `stopping`: when it becomes true, a decode in progress is aborted.
  BatchRunner(LoadedModel model, const Clock& clock, const std::atomic<bool>& stopping,
              const RunnerOptions& options = {}, Waiting waiting = {});
  BatchRunner(const BatchRunner&) = delete;
  BatchRunner& operator=(const BatchRunner&) = delete;
  ~BatchRunner();

  /// Requests that were admitted and have not ended, parked ones included.
  [[nodiscard]] std::size_t running() const { return table_.size(); }
  /// Of those, the ones whose listener wants no more for now, as the last step found them.
  [[nodiscard]] std::size_t resting() const { return table_.resting(); }
  [[nodiscard]] const LoadedModel& model() const { return model_; }

  /// How many requests to admit now, when the most urgent that waits is of `level` (unset: not
  /// known).
  [[nodiscard]] std::size_t room(std::optional<std::int32_t> level) const {
    return table_.room(level);
  }

  /// A request that cannot run ends in the report.
  void admit(Taken taken, StepReport& report);

  /// Ends those that were cancelled or are past their deadline.
  void let_go(StepReport& report);

  /// One decode for all that run and do not rest, or a prompt in slices. Does nothing when all
  /// rest.
  void step(StepReport& report);

  /// Ends everything that runs with `error`; cancelled requests with kCancelled.
  void fail_all(const Error& error, StepReport& report);

  [[nodiscard]] EngineReading reading() const;

 private:
  using ReasonToEnd = std::function<std::optional<Error>(const Sequence&)>;

  [[nodiscard]] StepPlan make_plan();
  /// A plan for which there are cells.
  [[nodiscard]] StepPlan make_room_for_plan();
  /// Guesses for those that generate, if nobody else is in the step.
  void add_drafts(StepPlan& plan);
  /// Chunks of nearly one length become of one, so that they share a pass.
  void even_out(StepPlan& plan);
  void fill_batch(const StepPlan& plan);
  /// Decodes; false when there is nothing to sample.
  bool decode(StepReport& report);
  void advance(Sequence& sequence, std::size_t slot, std::size_t tokens, StepReport& report);
  void take_tokens(std::size_t slot, StepReport& report);
  /// From the logits at a place in the batch; false: the sequence has ended with it.
  bool take_token(std::size_t slot, std::int32_t logits_at, StepReport& report);
  void complete(std::size_t slot, FinishReason reason, StepReport& report);
  /// Ends those for which there is a reason, parked ones included.
  void end_where(const ReasonToEnd& reason_for, StepReport& report);
  void end(std::size_t slot, std::variant<Completion, Error> result, StepReport& report);
  void hand_back(Sequence& sequence, std::variant<Completion, Error> result, StepReport& report);
  /// After a decode that was stopped: whatever was finished stays, and is counted.
  [[nodiscard]] bool restore(StepReport& report);

  LoadedModel model_;
  const Clock& clock_;
  const std::atomic<bool>& stopping_;
  const std::size_t step_tokens_;
  EngineReading counts_;
  KvStore kv_;
  Batch batch_;
  SlotTable table_;
  StepAbort abort_;
  SlicedPrefill sliced_;
  std::uint64_t admissions_ = 0;
  StepCost cost_;
  StepShape shape_;  ///< of the decode under way, without guesses
  std::optional<Speculation> speculation_;
  std::optional<Duration> with_drafts_;  ///< what the decode should take; unset: it has no guesses
};

}  // namespace weir::model
