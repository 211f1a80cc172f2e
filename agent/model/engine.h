// SPDX-License-Identifier: Apache-2.0
//
// One version of a model and its engine threads: requests wait in a RequestQueue, one thread loads
// and warms the model when the first one comes, and each instance of it (engine_instance.h) decodes
// on a thread of its own, the first one on that which has loaded. Instances share the weights and
// the queue, nothing else. Prompts are tokenized while they wait, not on these threads
// (prompt_tokenizer.h). It is loaded once at most: whoever wants it again makes another one
// (managed_model.h).
//
// Thread-safe: submit(), begin_drain(), wait_idle(), info() and predicted_wait() from any thread;
// none of them waits for the model. Owns model and threads, and shares the queue; a request that
// outlives it may still be cancelled. Every accepted request's listener hears exactly one end,
// outside every lock; the destructor ends what is left with kUnavailable. A failed load ends the
// requests that waited for it, and the thread; submits are refused from then on. A decode that
// fails ends the requests of its instance only.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/engine_instance.h"
#include "agent/model/file_stamp.h"
#include "agent/model/generation.h"
#include "agent/model/loaded_model.h"
#include "agent/model/model_version.h"
#include "agent/model/prompt_tokenizer.h"
#include "agent/model/request_queue.h"
#include "agent/model/version_life.h"
#include "agent/schedule/timer.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

class Engine final : public ModelVersion {
 public:
  /// Precondition: valid options (Registry::create() checks them). Clock, timers, workers and host,
  /// which may be null, must outlive this. Throws std::system_error when the system has no more
  /// threads.
  Engine(ModelOptions options, const Clock& clock, schedule::TimerThread& timers,
         schedule::WorkerPool& workers, VersionHost* host = nullptr);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine() override;

  [[nodiscard]] std::optional<Refusal> submit(std::shared_ptr<GenerationRequest> request) override;
  void begin_drain() override;
  [[nodiscard]] bool wait_idle(TimePoint deadline) override;
  [[nodiscard]] ModelInfo info() const override;
  [[nodiscard]] std::optional<Duration> predicted_wait(std::int32_t level) const override;

  [[nodiscard]] const std::shared_ptr<RequestQueue>& queue() const override { return queue_; }
  void begin() override { life_.begin(); }
  void abandon() override { life_.abandon(); }
  [[nodiscard]] bool abandoned() const override { return life_.abandoned(); }
  [[nodiscard]] std::optional<FileStamp> stamp() const override { return life_.stamp(); }

 private:
  void run();
  Status load();
  /// A context for each instance.
  Result<std::vector<LoadedModel>> load_file();
  /// Warms the contexts, and makes a thread for each but the first, which wait for begun_.
  Status make_instances(std::vector<LoadedModel> contexts);
  void stop();

  // Constant after construction.
  const ModelOptions options_;
  const Clock& clock_;
  const std::shared_ptr<RequestQueue> queue_;  // not null
  schedule::WorkerPool& workers_;

  VersionLife life_;

  // The first thread only, but for what others may do with an instance.
  std::vector<std::unique_ptr<EngineInstance>> instances_;  ///< never changes after construction
  std::optional<PromptTokenizer> tokenizer_;                ///< unset until loaded
  std::promise<bool> begun_;  ///< true: the others are to run; false, or broken: to end

  std::vector<std::jthread> others_;  ///< of the other instances; the first thread's
  std::jthread thread_;               // last: runs while the rest lives
};

}  // namespace weir::model
