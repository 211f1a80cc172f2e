// SPDX-License-Identifier: Apache-2.0
//
// The models of this agent, by name, each with its own runner: the production Executor. Those of
// the configuration are there from the start; those of a folder come and go with its files, and
// what they are for is what the file says.
//
// Thread-safe: all methods from any thread, none waits for a model but wait_idle(). Owns the
// runners; its destructor ends what is still accepted with kUnavailable, each listener told once.
// A model whose file is missing or damaged does not keep the registry from being made: the first
// request for it hears why. A runner is never destroyed before the registry: a model whose file
// has left the folder is kept, without anything loaded, in case it comes back.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/keeper.h"
#include "agent/model/loaded_model.h"
#include "agent/model/managed_model.h"
#include "agent/model/model_admin.h"
#include "agent/model/model_directory.h"
#include "agent/model/model_memory.h"
#include "agent/model/runner.h"
#include "agent/schedule/timer.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

struct RegistryOptions {
  std::optional<std::uint64_t> memory_bytes{};  ///< of all models together; unset: no bound
  /// Each *.gguf in it is a model; the configured ones have precedence. Empty: none.
  std::string directory{};
  ModelOptions of_directory{};  ///< of its models, but for name and path
  /// How often the folder is looked into, and at the files of loaded models. Unset: when told.
  std::optional<Duration> poll{};
};

class Registry final : public Executor, public ModelAdmin {
 public:
  /// Models that may ever be known; more files in the folder are reported and left.
  static constexpr std::size_t kMostModels = 1024;

  /// Fails with kInvalidArgument, naming model, field and limit, when an option is out of range or
  /// a name occurs twice; with kIo when the folder cannot be read. Clock and workers, which
  /// tokenize prompts, must outlive the registry.
  static Result<std::unique_ptr<Registry>> create(std::vector<ModelOptions> models,
                                                  const Clock& clock, schedule::WorkerPool& workers,
                                                  RegistryOptions options = {});
  ~Registry() override;

  [[nodiscard]] std::optional<Refusal> submit(std::string_view model,
                                              std::shared_ptr<GenerationRequest> request) override;
  [[nodiscard]] std::optional<Duration> predicted_wait(std::string_view model,
                                                       std::int32_t level) const override;
  [[nodiscard]] bool has_model(std::string_view model) const override;
  [[nodiscard]] Task task(std::string_view model) const override;
  [[nodiscard]] std::vector<ModelInfo> models() const override;

  void rescan(Done done) override;
  void load(std::string name, Done done) override;
  void unload(std::string name, Done done) override;

  /// Looks into the folder anew, and loads the new version of each loaded model whose file was
  /// replaced. Returns at once.
  void reload();

  /// From now on every submit is refused with kDraining; what was accepted is finished.
  void begin_drain();

  /// Waits until every accepted request has ended; false when `timeout` passed first.
  [[nodiscard]] bool wait_idle(Duration timeout);

  /// Look at the clock again: for clocks that jump.
  void wake() { keeper_->wake(); }

  struct NamedKv {
    std::string model;
    KvCapacity kv;
  };
  /// Of all models that are listed. Reads the heads of at most a few files that it has not seen yet
  /// at each call: not for threads that serve.
  [[nodiscard]] std::vector<NamedKv> kv_capacities() const;

  [[nodiscard]] std::optional<std::uint64_t> memory_budget() const { return memory_.budget(); }
  [[nodiscard]] std::uint64_t memory_reserved() const { return memory_.reserved(); }

 private:
  struct Entry {
    std::unique_ptr<Runner> runner;   ///< not null
    ManagedModel* managed = nullptr;  ///< the same; null: a model without a file
    Task task = Task::kGenerate;
    bool of_directory = false;
    bool listed = true;  ///< guarded by mutex_
  };

  Registry(const Clock& clock, schedule::WorkerPool& workers, RegistryOptions options);

  /// Throws std::system_error when the system has no more threads.
  [[nodiscard]] Entry make_entry(ModelOptions options);
  /// Null when there is none, or not any more.
  [[nodiscard]] const Entry* find(std::string_view name) const;
  [[nodiscard]] std::vector<ManagedModel*> managed() const;
  [[nodiscard]] std::vector<ModelMemory::Candidate> candidates() const;

  // The keeper's.
  Status scan();
  void add(const DirectoryScan::Model& model);
  void load_changed();
  [[nodiscard]] std::optional<TimePoint> look();
  void post(Done done, std::function<void(Done)> job);

  const Clock& clock_;
  schedule::WorkerPool& workers_;
  const RegistryOptions options_;
  schedule::TimerThread timers_;  ///< of all runners; before them: they use it to their end
  ModelMemory memory_;
  ManagedModel::Shared shared_;

  mutable std::shared_mutex mutex_;
  /// Guarded by mutex_; what is in it stays where it is.
  std::map<std::string, Entry, std::less<>> entries_;
  bool draining_ = false;  ///< likewise

  // The keeper's.
  std::vector<DirectoryScan::Skipped> reported_;
  std::optional<TimePoint> next_poll_;

  std::unique_ptr<Keeper> keeper_;  ///< last: it uses all of the above; never null after create()
};

}  // namespace weir::model
