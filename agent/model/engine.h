// SPDX-License-Identifier: Apache-2.0
//
// One model and its engine thread: requests wait in a bounded priority queue, the thread loads the
// model when the first one comes, and decodes as many together as there are sequences.
//
// Thread-safe: submit(), begin_drain(), wait_idle() and info() from any thread; none of them waits
// for the model. Owns queue, model and thread. Every accepted request's listener hears exactly one
// end, from the engine thread and outside every lock; the destructor ends what is left with
// kUnavailable. A failed load ends the requests that waited for it and is tried again by the first
// submit() after a backoff of 5 s that doubles up to 60 s; until then submits are refused.
#pragma once

#include <atomic>
#include <condition_variable>
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
#include "agent/model/runner.h"
#include "agent/schedule/drain_rate.h"
#include "agent/schedule/priority_queue.h"

namespace weir::model {

class Engine final : public Runner {
 public:
  /// Precondition: valid options (Registry::create() checks them). The clock must outlive this.
  Engine(ModelOptions options, const Clock& clock);
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
  std::vector<Outcome> take_leavers_locked();
  /// Counts, then tells the listeners. Not under the lock.
  void settle(const StepReport& report);

  // Constant after construction.
  const ModelOptions options_;
  const Clock& clock_;

  // Engine thread only.
  std::unique_ptr<BatchRunner> runner_;  ///< null until loaded
  Duration backoff_;                     ///< after the next failed load
  int logged_tenths_ = 0;                ///< of the load in progress

  // Written under mutex_; read without it by the abort callback.
  std::atomic<bool> stopping_{false};

  mutable std::mutex mutex_;
  std::condition_variable wake_;  ///< engine thread: work, or stopping_
  std::condition_variable idle_;  ///< wait_idle(): outstanding_ became 0
  // Guarded by mutex_.
  schedule::PriorityQueue<Waiting> queue_;
  schedule::DrainRate drain_rate_;
  ModelInfo info_;                     ///< all but `queued`
  std::optional<TimePoint> retry_at_;  ///< kFailed: no load before this
  bool load_wanted_ = false;           ///< load without a request
  bool draining_ = false;
  std::size_t outstanding_ = 0;  ///< accepted, and its listener has not heard the end

  std::jthread thread_;  // last: runs while the rest lives
};

}  // namespace weir::model
