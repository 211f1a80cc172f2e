// SPDX-License-Identifier: Apache-2.0
//
// One model and its engine thread: requests wait in a RequestQueue, the thread loads the model when
// the first one comes, and decodes as many together as there are sequences. Prompts are tokenized
// while they wait, not on this thread (prompt_tokenizer.h).
//
// Thread-safe: submit(), begin_drain(), wait_idle(), info() and predicted_wait() from any thread;
// none of them waits for the model. Owns queue, model and thread; a request that outlives it may
// still be cancelled. Every accepted request's listener hears exactly one end, outside every lock;
// the destructor ends what is left with kUnavailable. A failed load ends the requests that waited
// for it and is tried again by the first submit() after a backoff of 5 s that doubles up to 60 s;
// until then submits are refused.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/batch_runner.h"
#include "agent/model/generation.h"
#include "agent/model/loaded_model.h"
#include "agent/model/prompt_tokenizer.h"
#include "agent/model/request_queue.h"
#include "agent/model/runner.h"
#include "agent/schedule/timer.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

class Engine final : public Runner {
 public:
  /// Precondition: valid options (Registry::create() checks them). Clock, timers and workers must
  /// outlive this.
  Engine(ModelOptions options, const Clock& clock, schedule::TimerThread& timers,
         schedule::WorkerPool& workers);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine() override;

  [[nodiscard]] std::optional<Refusal> submit(std::shared_ptr<GenerationRequest> request) override;
  void begin_drain() override;
  [[nodiscard]] bool wait_idle(TimePoint deadline) override;
  [[nodiscard]] ModelInfo info() const override;
  [[nodiscard]] std::optional<Duration> predicted_wait(std::int32_t level) const override;

 private:
  void run();
  void load();
  bool on_progress(float progress);
  void step();
  void stop();
  [[nodiscard]] bool take_load_wanted();
  /// Counts what is in the report, tells the listeners, and empties it. Not under the lock.
  void settle(StepReport& report);

  // Constant after construction.
  const ModelOptions options_;
  const Clock& clock_;
  const std::shared_ptr<RequestQueue> queue_;  // not null
  schedule::WorkerPool& workers_;

  // Engine thread only.
  std::unique_ptr<BatchRunner> runner_;       ///< null until loaded
  std::optional<PromptTokenizer> tokenizer_;  ///< unset until then; uses its model
  Duration backoff_;                          ///< after the next failed load
  int logged_tenths_ = 0;                     ///< of the load in progress

  std::atomic<bool> stopping_{false};  ///< read by the abort callback

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  ModelInfo info_;            ///< all but what the queue knows
  bool load_wanted_ = false;  ///< load without a request

  std::jthread thread_;  // last: runs while the rest lives
};

}  // namespace weir::model
