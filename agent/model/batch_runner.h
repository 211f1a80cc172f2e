// SPDX-License-Identifier: Apache-2.0
//
// Iteration-level batching over one loaded model. Every step decodes one token of each sequence
// that generates and a chunk of the prompts of those that do not yet, in one llama_decode(). A
// sequence has its KV cells reserved, so it never waits for, or fails because of, another one. One
// whose listener wants no more for now rests: it keeps its cells and is left out of the steps.
//
// Requests that were cancelled or are past their deadline leave between steps. A step that has one
// of them in it and goes on for longer than kPatience is stopped at a node of the graph, and what
// it did is lost to the others. Until they have been decoding for as long again, no step is stopped
// for anybody, and all steps are short instead: whoever sends and cancels costs the others half of
// the time at most, and hears of it within a short step.
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

  /// How long a step goes on with somebody in it who leaves: most end sooner by themselves.
  static constexpr Duration kPatience = std::chrono::milliseconds(2);
  /// What a short step should take. Generating sequences are in it nevertheless, all of them.
  static constexpr Duration kShortStep = std::chrono::milliseconds(3);

  [[nodiscard]] std::size_t running() const { return running_; }
  /// Of those, as the last step found them.
  [[nodiscard]] std::size_t resting() const { return resting_; }
  [[nodiscard]] std::size_t free_sequences() const { return slots_.size() - running_; }
  [[nodiscard]] const LoadedModel& model() const { return model_; }

  /// Gives the prompt a sequence; a request that cannot run ends in the report.
  /// Precondition: free_sequences() > 0.
  void admit(Taken taken, StepReport& report);

  /// Ends those that were cancelled or are past their deadline.
  void let_go(StepReport& report);

  /// One decode for all that run and do not rest. Does nothing when all rest.
  void step(StepReport& report);

  /// Ends everything that runs with `error`; cancelled requests with kCancelled.
  void fail_all(const Error& error, StepReport& report);

 private:
  struct Sequence;
  using Slot = std::unique_ptr<Sequence>;  ///< the index is the sequence id; null: free

  /// Moves from `taken` when it succeeds.
  Result<Slot> make_sequence(Taken& taken) const;
  void fill_batch();
  [[nodiscard]] std::size_t prompt_tokens_a_step() const;
  /// Decodes the filled batch; false when no sequence is left to sample.
  bool decode(StepReport& report);
  void take_token(std::size_t slot, StepReport& report);
  void complete(std::size_t slot, FinishReason reason, StepReport& report);
  void end(std::size_t slot, std::variant<Completion, Error> result, StepReport& report);
  /// After a decode that was stopped: every sequence is again where it was before.
  [[nodiscard]] bool restore();
  /// After a decode that was not, and took so long.
  void learn(Duration took);
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
  Duration lost_{};              ///< by stopped steps, and not made good since
  Duration per_prompt_token_{};  ///< of late; zero: not known
  // Of the decode under way.
  std::size_t prompt_tokens_ = 0;
  std::size_t nodes_ = 0;                    ///< of the graph, so far
  std::optional<TimePoint> leaver_noticed_;  ///< since when there is one
};

}  // namespace weir::model
