// SPDX-License-Identifier: Apache-2.0
//
// A model by name, whatever becomes of its file: makes a ModelVersion when one is wanted, an Engine
// or an EmbeddingEngine, and lets it go when it is not, as lifecycle.h says. A version that drains
// lives on beside its successor until its last request has ended.
//
// Thread-safe; submit() and info() wait for nothing but a short lock. Owns its engines. What
// Runner says of listeners holds. load(), unload() and tick() are the keeper's, as they look at
// files and end threads. `done` is called once, on any thread, outside every lock; it must not
// block.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/file_stamp.h"
#include "agent/model/kv_capacity.h"
#include "agent/model/lifecycle.h"
#include "agent/model/loaded_model.h"
#include "agent/model/model_memory.h"
#include "agent/model/model_version.h"
#include "agent/model/runner.h"
#include "agent/schedule/timer.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

class ManagedModel final : public Runner, private VersionHost {
 public:
  using Done = std::function<void(Status)>;

  /// What all models share; outlives them.
  struct Shared {
    const Clock& clock;
    schedule::TimerThread& timers;
    schedule::WorkerPool& workers;
    ModelMemory& memory;
    std::function<void()> look_soon;  ///< have tick() called; from any thread
  };

  /// Precondition: valid options.
  ManagedModel(ModelOptions options, const Shared& shared);
  ManagedModel(const ManagedModel&) = delete;
  ManagedModel& operator=(const ManagedModel&) = delete;
  ~ManagedModel() override;

  [[nodiscard]] std::optional<Refusal> submit(std::shared_ptr<GenerationRequest> request) override;
  void begin_drain() override;
  [[nodiscard]] bool wait_idle(TimePoint deadline) override;
  [[nodiscard]] ModelInfo info() const override;
  [[nodiscard]] std::optional<Duration> predicted_wait(std::int32_t level) const override;

  /// Done when it is ready, or has failed. Where another file has taken the place of the one that
  /// is loaded, it takes over once it is ready; if it fails, the one that is loaded stays.
  void load(Done done);
  /// Takes no more requests; done when the last one has ended and the memory is free.
  void unload(Done done);
  /// Loads nothing, but the next request may again.
  void enable();
  /// Whether the file is not the one that is loaded. Looks at the file.
  [[nodiscard]] bool file_changed() const;

  /// Does what is due; says when something will be.
  [[nodiscard]] std::optional<TimePoint> tick();

  /// Of the version that is loaded, or else of the file. Looks at the file, and reads the head of
  /// one that it has not seen yet while `reads_left`, which counts down.
  [[nodiscard]] KvCapacity kv_capacity(std::size_t& reads_left);

  /// Unset: it must stay now.
  [[nodiscard]] std::optional<ModelMemory::Candidate> candidate();

 private:
  using Engines = std::vector<std::unique_ptr<ModelVersion>>;

  Status reserve(const ModelVersion& engine, const MemoryClaim& claim) override;
  void load_progressed(const ModelVersion& engine, float progress) override;
  void loaded(const ModelVersion& engine) override;
  void warmed(const ModelVersion& engine) override;
  void load_failed(const ModelVersion& engine, const Error& error, bool no_memory) override;
  void idle(const ModelVersion& engine) override;
  void released(const ModelVersion& engine) override;

  /// Lets it go if it still may; false: it stays.
  bool evict();
  [[nodiscard]] bool loads_locked(const ModelVersion& engine) const;
  void start_locked(std::unique_ptr<ModelVersion>& place, bool at_once = true);
  bool retire_locked(UnloadCause cause, bool if_idle);
  void drop_successor_locked();
  [[nodiscard]] std::optional<TimePoint> idle_since_locked() const;
  [[nodiscard]] bool served_locked() const;
  [[nodiscard]] std::vector<std::shared_ptr<RequestQueue>> queues() const;

  // Constant after construction.
  const ModelOptions options_;
  const Shared& shared_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Lifecycle lifecycle_;
  std::unique_ptr<ModelVersion> current_;    ///< loading, warming or ready; null otherwise
  std::unique_ptr<ModelVersion> successor_;  ///< of a ready one
  Engines leaving_;                          ///< retired, or failed
  std::vector<const ModelVersion*> gone_;    ///< of these: their thread ends
  std::map<const ModelVersion*, std::uint64_t> bytes_;
  ModelInfo counts_;  ///< the model's name and file, what engines counted that are no more
  std::optional<TimePoint> last_used_;
  KvCapacity kv_;
  std::optional<FileStamp> kv_stamp_;  ///< of the file that kv_ is of
  std::vector<Done> load_waiters_;
  std::vector<Done> unload_waiters_;
  bool draining_ = false;
};

}  // namespace weir::model
