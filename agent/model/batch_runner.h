// SPDX-License-Identifier: Apache-2.0
//
// Iteration-level batching over one loaded model. Every step decodes one token of each sequence
// that generates and chunks of the prompts of those that do not yet, in one llama_decode() of at
// most kStepTokens tokens. A sequence has its KV cells reserved, so it never waits for, or fails
// because of, another one. One whose listener wants no more for now rests: it keeps its cells and
// is left out of the steps.
//
// Cancelled requests leave between steps. A step that has a cancelled request in it and goes on for
// longer than kCancelPatience is stopped at the next node of the graph; the next step does it again
// without. Not twice in a row, so that whoever sends and cancels costs the others half of their
// steps at most.
//
// Thread-compatible: one engine thread. Owns the model and the running requests; calls on_text() of
// their listeners itself and hands their ends back as outcomes, each request exactly once. The
// clock and the stop flag must outlive it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/llama_handles.h"
#include "agent/model/loaded_model.h"
#include "agent/model/request_queue.h"
#include "agent/model/text_assembler.h"

namespace weir::model {

/// What happened since the report was made.
struct StepReport {
  std::vector<Outcome> ended;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t completion_tokens = 0;
  std::uint64_t decode_steps = 0;
  std::uint64_t decode_aborts = 0;
};

class BatchRunner {
 public:
  /// `stopping`: when it becomes true, a decode in progress is aborted.
  BatchRunner(LoadedModel model, const Clock& clock, const std::atomic<bool>& stopping);
  BatchRunner(const BatchRunner&) = delete;
  BatchRunner& operator=(const BatchRunner&) = delete;
  ~BatchRunner();

  /// A cancelled request leaves 10 ms after cancel() at the latest, give or take a node.
  static constexpr Duration kCancelPatience = std::chrono::milliseconds(8);

  [[nodiscard]] std::size_t running() const { return running_; }
  /// Of those, as the last step found them.
  [[nodiscard]] std::size_t resting() const { return resting_; }
  [[nodiscard]] std::size_t free_sequences() const { return slots_.size() - running_; }
  [[nodiscard]] const LoadedModel& model() const { return model_; }

  /// Tokenizes the prompt and gives it a sequence; a request that cannot run ends in the report.
  /// Precondition: free_sequences() > 0.
  void admit(Taken taken, StepReport& report);

  /// One decode for all that run and do not rest, after letting go those that were cancelled or
  /// expired. Does nothing else when all rest.
  void step(StepReport& report);

  /// Ends everything that runs with `error`; cancelled requests with kCancelled.
  void fail_all(const Error& error, StepReport& report);

 private:
  struct Sequence;
  using Slot = std::unique_ptr<Sequence>;  ///< the index is the sequence id; null: free

  Result<Slot> make_sequence(const Taken& taken) const;
  void let_go(StepReport& report);
  void fill_batch();
  /// Decodes the filled batch; false when no sequence is left to sample.
  bool decode(StepReport& report);
  void take_token(std::size_t slot, StepReport& report);
  void complete(std::size_t slot, FinishReason reason, StepReport& report);
  void end(std::size_t slot, std::variant<Completion, Error> result, StepReport& report);
  /// After a decode that was stopped: every sequence is again where it was before.
  [[nodiscard]] bool restore();
  [[nodiscard]] std::optional<std::size_t> newest() const;
  [[nodiscard]] bool abort_wanted();
  static bool should_abort(void* self);

  LoadedModel model_;
  const Clock& clock_;
  const std::atomic<bool>& stopping_;
  const std::size_t step_tokens_;
  const bool can_go_back_;  ///< whether a step that was stopped can be begun again
  Batch batch_;
  std::vector<Slot> slots_;
  std::size_t running_ = 0;
  std::size_t resting_ = 0;
  std::uint64_t admissions_ = 0;
  // Of the decode under way.
  bool may_abort_;                           ///< for a cancelled request among others
  std::optional<TimePoint> cancel_noticed_;  ///< since when there is one
};

}  // namespace weir::model
