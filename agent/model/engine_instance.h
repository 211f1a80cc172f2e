// SPDX-License-Identifier: Apache-2.0
//
// One context over the weights of a model, and what steps it: takes requests from the model's queue
// as long as it has room, decodes them together, and settles them. What fails here, fails for the
// requests of this instance only; the other takers of the queue go on. What prompts have in common
// is shared within an instance, not between them.
//
// Thread-compatible, one thread at a time, but for read(), which is for any thread. Owns the
// context from begin() to end(). Queue, clock and the stop flag must outlive it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/batch_runner.h"
#include "agent/model/generation.h"
#include "agent/model/loaded_model.h"
#include "agent/model/request_queue.h"

namespace weir::model {

class EngineInstance {
 public:
  /// `number`: which taker of the queue this is.
  EngineInstance(std::size_t number, RequestQueue& queue, const Clock& clock,
                 const std::atomic<bool>& stopping);
  EngineInstance(const EngineInstance&) = delete;
  EngineInstance& operator=(const EngineInstance&) = delete;
  ~EngineInstance() = default;

  /// Takes the context over. At most once.
  void begin(LoadedModel model, const RunnerOptions& options);

  /// Steps while there is work, and waits while there is none; returns when `stopping` is true and
  /// was poked, or when the queue is retired and idle. `on_idle`, which may be empty, is called
  /// whenever no request is left. Precondition: begin(), and the queue prepares its requests.
  void run(const std::function<void()>& on_idle);

  /// Ends what still runs here with `error`, and frees the context, if there is one.
  void end(const Error& error);

  /// Precondition: between begin() and end().
  [[nodiscard]] const LoadedModel& model() const { return runner_->model(); }

  /// Adds what is counted here to that of the other instances.
  void read(ModelInfo& info) const;

 private:
  void step();
  /// Counts what is in the report, tells the listeners, and empties it. Not under the lock.
  void settle(StepReport& report);

  // Constant after construction.
  const std::size_t number_;
  RequestQueue& queue_;
  const Clock& clock_;
  const std::atomic<bool>& stopping_;

  std::unique_ptr<BatchRunner> runner_;  ///< its thread only; null before begin(), after end()

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  InstanceReading reading_;
  std::uint32_t resting_ = 0;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t decode_aborts_ = 0;
  EngineReading engine_;
};

}  // namespace weir::model
