// SPDX-License-Identifier: Apache-2.0
//
// One version of a model that embeds texts or scores them: requests wait in a RequestQueue, which
// tokenizes them beside, and each instance, a thread with a context of its own over the shared
// weights, takes batches of their texts. When a batch starts is the BatchFormer's to say; which
// texts are in it, that of EmbeddingJobs. The texts of one request may be in several batches, and
// its listener hears all results at once.
//
// Instances share the threads of the model: under load each computes on its part, so that none
// waits for another at the end of every node of a graph; a single text while nothing else is
// computed takes all. In mode `learned` a batch has as many tokens as EmbeddingBudget says, and
// what waits is shared out among the instances that are idle; in the others it is as large as
// configured.
//
// The first instance loads and warms the model when the first request comes, and frees it at the
// end. Instances take turns at looking for a batch: one waits at the queue, the others for it.
//
// Thread-safety, ownership and failures are those of Engine (engine.h). Requests that were
// cancelled or are past their deadline leave between batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/embedding_budget.h"
#include "agent/model/embedding_jobs.h"
#include "agent/model/embedding_model.h"
#include "agent/model/file_stamp.h"
#include "agent/model/generation.h"
#include "agent/model/loaded_model.h"
#include "agent/model/model_version.h"
#include "agent/model/prompt_tokenizer.h"
#include "agent/model/request_queue.h"
#include "agent/model/version_life.h"
#include "agent/schedule/batch_former.h"
#include "agent/schedule/batch_reading.h"
#include "agent/schedule/timer.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

class EmbeddingEngine final : public ModelVersion {
 public:
  /// As Engine's. Precondition: the task is not kGenerate.
  EmbeddingEngine(ModelOptions options, const Clock& clock, schedule::TimerThread& timers,
                  schedule::WorkerPool& workers, VersionHost* host = nullptr);
  EmbeddingEngine(const EmbeddingEngine&) = delete;
  EmbeddingEngine& operator=(const EmbeddingEngine&) = delete;
  ~EmbeddingEngine() override;

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
  struct Batch {
    std::vector<EmbeddingPiece> pieces;  ///< empty: the end has come
    schedule::BatchCause cause = schedule::BatchCause::kNoGain;
    std::uint32_t threads = 1;  ///< to be computed with
  };

  // The first instance.
  void run();
  Status load();
  Result<Weights> load_file();
  Status make_instances(const Weights& weights, std::size_t instances);
  Status warm_up();
  void stop();

  // Each instance.
  void serve(std::size_t instance);
  /// Waits for a batch. One instance at a time.
  [[nodiscard]] Batch next_batch();
  void take_requests();
  void drop_leavers();
  /// A batch that is due now; no pieces: wait until `look_again` is over, or for a request.
  [[nodiscard]] Batch due_batch(std::optional<TimePoint>& look_again);
  void wait_for_requests(std::optional<TimePoint> look_again);
  /// Of a batch.
  [[nodiscard]] EmbeddingBound bound_locked() const;
  /// Among how many what waits is shared out: who asks, and others that are idle.
  [[nodiscard]] std::size_t sharers_locked() const;
  [[nodiscard]] bool learns() const { return options_.batch.mode == schedule::BatchMode::kLearned; }
  void execute(std::size_t instance, const Batch& batch);
  /// Tells those that have ended; not under the lock.
  void settle(const std::vector<std::shared_ptr<EmbeddingJob>>& ended);
  [[nodiscard]] std::vector<std::shared_ptr<EmbeddingJob>> take_ended_locked();

  // Constant after construction.
  const ModelOptions options_;
  const Clock& clock_;
  const std::shared_ptr<RequestQueue> queue_;  // not null
  schedule::WorkerPool& workers_;

  VersionLife life_;

  // The first instance's, and constant while others live.
  std::vector<EmbeddingModel> models_;        ///< of the instances
  std::optional<PromptTokenizer> tokenizer_;  ///< unset until loaded
  std::size_t values_per_text_ = 0;
  std::uint32_t threads_ = 1;  ///< of all instances together
  std::uint32_t share_ = 1;    ///< of each under load

  std::mutex turn_;  ///< who looks for a batch; taken before mutex_

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  schedule::BatchReading batches_;
  std::uint64_t computed_tokens_ = 0;
  std::uint64_t calls_ = 0;
  EmbeddingJobs jobs_;
  std::size_t executing_ = 0;  ///< instances
  schedule::BatchFormer former_;
  EmbeddingBudget budget_;  ///< where it learns

  std::jthread thread_;  // last: runs while the rest lives
};

}  // namespace weir::model
