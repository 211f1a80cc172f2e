// SPDX-License-Identifier: Apache-2.0
#include "agent/model/registry.h"

#include <fmt/format.h>
#include <llama.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>
#include <limits>
#include <set>
#include <system_error>
#include <utility>

#include "agent/model/embedding_model.h"
#include "agent/model/gguf_reader.h"
#include "agent/model/identity.h"
#include "agent/model/one_shot_runner.h"

namespace weir::model {

namespace {

Status in_range(const ModelOptions& options, std::string_view field,
                std::optional<std::uint32_t> value, std::uint32_t low, std::uint32_t high) {
  if (value && (*value < low || *value > high)) {
    return make_error(Code::kInvalidArgument, fmt::format("model \"{}\": {} must be {}..{}, not {}",
                                                          options.name, field, low, high, *value));
  }
  return {};
}

/// By its pooling. A file that cannot be read generates: the load will say what is wrong.
Task task_of_file(const std::string& path) {
  const auto head = read_gguf_head(path);
  if (!head) return Task::kGenerate;
  const GgufEntry* const architecture = head->metadata.find("general.architecture");
  if (architecture == nullptr || !architecture->text()) return Task::kGenerate;
  const GgufEntry* const pooling =
      head->metadata.find(std::string(*architecture->text()) + ".pooling_type");
  switch (pooling == nullptr ? 0 : pooling->uint32().value_or(0)) {
    case LLAMA_POOLING_TYPE_MEAN:
    case LLAMA_POOLING_TYPE_CLS:
    case LLAMA_POOLING_TYPE_LAST:
      return Task::kEmbed;
    case LLAMA_POOLING_TYPE_RANK:
      return Task::kScore;
    default:
      return Task::kGenerate;
  }
}

/// For the message of a value that is far too large anyway.
std::uint32_t narrow(std::size_t value) {
  return static_cast<std::uint32_t>(
      std::min<std::size_t>(value, std::numeric_limits<std::uint32_t>::max()));
}

Status validate(const ModelOptions& options) {
  if (!is_model_name(options.name)) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("model \"{}\": name must be 1..{} characters of [A-Za-z0-9._-]",
                                  options.name, kLongestModelName));
  }
  if (options.path.empty() && !options.identity) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("model \"{}\": path is missing", options.name));
  }
  if (options.identity && options.task != Task::kGenerate) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("model \"{}\": task must be generate with identity, not {}",
                                  options.name, to_string(options.task)));
  }
  const schedule::BatchOptions& batch = options.batch;
  const std::uint32_t most_texts =
      options.task == Task::kGenerate ? 4096 : static_cast<std::uint32_t>(kMostTextsPerCall);
  for (Status status :
       {in_range(options, "instances", options.instances, 1, 64),
        in_range(options, "max_sequences", options.max_sequences, 1, 256),
        in_range(options, "context_tokens", options.context_tokens, 32, kMostContextTokens),
        in_range(options, "max_queue", options.max_queue, 1, 1048576),
        in_range(options, "threads", options.threads, 1, 1024),
        in_range(options, "batch.max_batch_size", narrow(batch.max_batch_size), 1, most_texts),
        in_range(options, "batch.max_batch_tokens", options.max_batch_tokens, 16,
                 kMostContextTokens),
        in_range(options, "batch.preferred_batch_size", narrow(batch.preferred_batch_size), 1,
                 narrow(batch.max_batch_size)),
        in_range(options, "batch.instances", narrow(batch.instances), 1, 64)}) {
    if (!status) {
      return status;
    }
  }
  return {};
}

}  // namespace

Registry::Registry(const Clock& clock, schedule::WorkerPool& workers, RegistryOptions options)
    : clock_(clock),
      workers_(workers),
      options_(std::move(options)),
      timers_(clock),
      memory_(options_.memory_bytes, [this] { return candidates(); }),
      shared_{clock, timers_, workers, memory_, [this] { keeper_->wake(); }} {
  if (options_.poll) next_poll_ = clock.now() + *options_.poll;
}

Registry::~Registry() {
  if (keeper_) keeper_->stop();  // null: the system had no thread for it
  entries_.clear();  // engines wake the keeper to their end
}

Result<std::unique_ptr<Registry>> Registry::create(std::vector<ModelOptions> models,
                                                   const Clock& clock,
                                                   schedule::WorkerPool& workers,
                                                   RegistryOptions options) {
  std::set<std::string_view> names;
  for (const ModelOptions& model : models) {
    if (Status status = validate(model); !status) {
      return std::move(status).error();
    }
    if (!names.insert(model.name).second) {
      return make_error(Code::kInvalidArgument,
                        fmt::format("model \"{}\": name occurs twice", model.name));
    }
  }
  if (!options.directory.empty()) {
    ModelOptions any = options.of_directory;
    any.name = any.path = "any";
    if (Status status = validate(any); !status) return std::move(status).error();
  }
  try {
    std::unique_ptr<Registry> registry(new Registry(clock, workers, std::move(options)));
    registry->keeper_ =
        std::make_unique<Keeper>(clock, [self = registry.get()] { return self->look(); });
    for (ModelOptions& model : models) {
      std::string name = model.name;
      Entry entry = registry->make_entry(std::move(model));
      const std::unique_lock lock(registry->mutex_);
      registry->entries_.emplace(std::move(name), std::move(entry));
    }
    // By the keeper: it may look into the folder by itself before a long scan has ended.
    std::promise<Status> scanned;
    registry->rescan([&scanned](const Status& status) { scanned.set_value(status); });
    if (Status status = scanned.get_future().get(); !status) return std::move(status).error();
    return registry;
  } catch (const std::system_error& refused) {
    return os_error(refused.code().value(),
                    fmt::format("starting the threads of {} models", models.size()));
  }
}

Registry::Entry Registry::make_entry(ModelOptions options) {
  Entry entry;
  entry.task = options.task;
  if (!options.identity) {
    auto managed = std::make_unique<ManagedModel>(std::move(options), shared_);
    entry.managed = managed.get();
    entry.runner = std::move(managed);
    return entry;
  }
  options.queue.all.max_requests = options.max_queue;
  entry.runner = std::make_unique<OneShotRunner>(
      OneShotOptions{std::move(options.name), "identity", std::move(options.batch),
                     std::move(options.queue)},
      std::make_unique<Identity>(*options.identity), clock_, timers_);
  return entry;
}

const Registry::Entry* Registry::find(std::string_view name) const {
  const std::shared_lock lock(mutex_);
  const auto entry = entries_.find(name);
  return entry == entries_.end() || !entry->second.listed ? nullptr : &entry->second;
}

std::vector<ManagedModel*> Registry::managed() const {
  const std::shared_lock lock(mutex_);
  std::vector<ManagedModel*> all;
  for (const auto& [name, entry] : entries_) {
    if (entry.managed != nullptr) all.push_back(entry.managed);
  }
  return all;
}

std::optional<Refusal> Registry::submit(std::string_view model,
                                        std::shared_ptr<GenerationRequest> request) {
  const Entry* const entry = find(model);
  if (entry == nullptr) {
    return Refusal{RefusalReason::kDraining, "the file of the model is gone", std::nullopt};
  }
  const bool embeds = entry->task != Task::kGenerate;
  if (embeds != (request->embedding != nullptr) ||
      (embeds && (entry->task == Task::kScore) != request->embedding->query.has_value())) {
    // Who sent it looked at another model, or at this one when its file was another.
    request->listener->on_error(make_error(
        Code::kInvalidArgument, fmt::format("model \"{}\" is not for that: its task is {}", model,
                                            to_string(entry->task))));
    return std::nullopt;
  }
  return entry->runner->submit(std::move(request));
}

Task Registry::task(std::string_view model) const {
  const Entry* const entry = find(model);
  return entry == nullptr ? Task::kGenerate : entry->task;
}

std::optional<Duration> Registry::predicted_wait(std::string_view model, std::int32_t level) const {
  const Entry* const entry = find(model);
  return entry == nullptr ? std::nullopt : entry->runner->predicted_wait(level);
}

bool Registry::has_model(std::string_view model) const { return find(model) != nullptr; }

std::vector<ModelInfo> Registry::models() const {
  std::vector<const Runner*> runners;
  {
    const std::shared_lock lock(mutex_);
    for (const auto& [name, entry] : entries_) {
      if (entry.listed) runners.push_back(entry.runner.get());
    }
  }
  std::vector<ModelInfo> infos;
  infos.reserve(runners.size());
  for (const Runner* const runner : runners) infos.push_back(runner->info());
  return infos;
}

void Registry::begin_drain() {
  const std::unique_lock lock(mutex_);
  draining_ = true;
  for (const auto& [name, entry] : entries_) entry.runner->begin_drain();
}

bool Registry::wait_idle(Duration timeout) {
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  std::vector<Runner*> runners;
  {
    const std::shared_lock lock(mutex_);
    for (const auto& [name, entry] : entries_) runners.push_back(entry.runner.get());
  }
  bool idle = true;
  for (Runner* const runner : runners) idle = runner->wait_idle(deadline) && idle;
  return idle;
}

std::vector<Registry::NamedKv> Registry::kv_capacities() const {
  std::vector<std::pair<std::string, ManagedModel*>> listed;
  {
    const std::shared_lock lock(mutex_);
    for (const auto& [name, entry] : entries_) {
      if (entry.listed && entry.managed != nullptr) listed.emplace_back(name, entry.managed);
    }
  }
  // Each takes some ten milliseconds when its vocabulary is large.
  std::size_t reads_left = 8;
  std::vector<NamedKv> all;
  all.reserve(listed.size());
  for (auto& [name, model] : listed) {
    all.push_back({std::move(name), model->kv_capacity(reads_left)});
  }
  return all;
}

// ---- memory -------------------------------------------------------------------------------------

std::vector<ModelMemory::Candidate> Registry::candidates() const {
  std::vector<ModelMemory::Candidate> all;
  for (ManagedModel* const model : managed()) {
    if (auto candidate = model->candidate()) all.push_back(*std::move(candidate));
  }
  return all;
}

// ---- what the keeper does -----------------------------------------------------------------------

std::optional<TimePoint> Registry::look() {
  const TimePoint now = clock_.now();
  if (next_poll_ && now >= *next_poll_) {
    if (Status scanned = scan(); !scanned) {
      spdlog::warn("cannot look for models reason=\"{}\"", scanned.error().message);
    }
    load_changed();
    next_poll_ = now + *options_.poll;
  }
  std::optional<TimePoint> next = next_poll_;
  for (ManagedModel* const model : managed()) {
    const auto due = model->tick();
    if (due && (!next || *due < *next)) next = due;
  }
  return next;
}

Status Registry::scan() {
  if (options_.directory.empty()) return {};
  auto scan = scan_model_directory(options_.directory);
  if (!scan) return std::move(scan).error().context("registry.model_dir");
  std::vector<ManagedModel*> removed;
  std::vector<ManagedModel*> back;
  std::vector<DirectoryScan::Model> added;
  {
    const std::unique_lock lock(mutex_);
    std::set<std::string_view> found;
    for (const auto& model : scan->models) {
      found.insert(model.name);
      const auto entry = entries_.find(model.name);
      if (entry == entries_.end()) {
        added.push_back(model);
      } else if (!entry->second.of_directory) {
        scan->skipped.push_back({model.path, "a model of the configuration has its name"});
      } else if (!entry->second.listed) {
        entry->second.listed = true;
        back.push_back(entry->second.managed);
      }
    }
    for (auto& [name, entry] : entries_) {
      if (!entry.of_directory || !entry.listed || found.contains(name)) continue;
      entry.listed = false;
      removed.push_back(entry.managed);
      spdlog::info("model removed name={}", name);
    }
  }
  for (ManagedModel* const model : removed) model->unload([](const Status&) {});
  for (ManagedModel* const model : back) model->enable();
  for (const auto& model : added) add(model);
  for (const auto& [path, reason] : scan->skipped) {
    const bool known = std::any_of(reported_.begin(), reported_.end(),
                                   [&](const auto& before) { return before.path == path; });
    if (!known) spdlog::warn("no model path={} reason=\"{}\"", path, reason);
  }
  reported_ = std::move(scan->skipped);
  return {};
}

void Registry::add(const DirectoryScan::Model& model) {
  ModelOptions options = options_.of_directory;
  options.name = model.name;
  options.path = model.path;
  options.task = task_of_file(model.path);
  {
    const std::shared_lock lock(mutex_);
    if (entries_.size() >= kMostModels) {
      spdlog::warn("no model path={} reason=\"there are {} models already\"", model.path,
                   kMostModels);
      return;
    }
  }
  Entry entry = make_entry(std::move(options));  // looks at the file: not under the lock
  entry.of_directory = true;
  spdlog::info("model found name={} path={}", model.name, model.path);
  const std::unique_lock lock(mutex_);
  if (draining_) entry.runner->begin_drain();
  entries_.emplace(model.name, std::move(entry));
}

void Registry::load_changed() {
  for (ManagedModel* const model : managed()) {
    if (!model->file_changed()) continue;
    model->load([name = model->info().name](const Status& loaded) {
      if (loaded) return;
      spdlog::error("model not replaced name={} reason=\"{}\"", name, loaded.error().message);
    });
  }
}

void Registry::post(Done done, std::function<void(Done)> job) {
  if (!keeper_->post([done, job = std::move(job)] { job(done); })) {
    done(make_error(Code::kResourceExhausted,
                    fmt::format("{} operations on models are waiting already", Keeper::kMostJobs)));
  }
}

void Registry::rescan(Done done) {
  post(std::move(done), [this](const Done& tell) { tell(scan()); });
}

void Registry::reload() {
  post([](const Status&) {},
       [this](const Done& /*tell*/) {
         if (Status scanned = scan(); !scanned) {
           spdlog::warn("cannot look for models reason=\"{}\"", scanned.error().message);
         }
         load_changed();
       });
}

void Registry::load(std::string name, Done done) {
  post(std::move(done), [this, name = std::move(name)](const Done& tell) {
    const Entry* entry = find(name);
    if (entry == nullptr) {
      if (Status scanned = scan(); !scanned) return tell(std::move(scanned).error());
      entry = find(name);
    }
    if (entry == nullptr) {
      return tell(make_error(Code::kNotFound, fmt::format("there is no model \"{}\"", name)));
    }
    if (entry->managed == nullptr) return tell({});
    entry->managed->load(tell);
  });
}

void Registry::unload(std::string name, Done done) {
  post(std::move(done), [this, name = std::move(name)](const Done& tell) {
    const Entry* const entry = find(name);
    if (entry == nullptr) {
      return tell(make_error(Code::kNotFound, fmt::format("there is no model \"{}\"", name)));
    }
    if (entry->managed == nullptr) {
      return tell(make_error(Code::kUnsupported,
                             fmt::format("the model \"{}\" has no file to unload", name)));
    }
    entry->managed->unload(tell);
  });
}

}  // namespace weir::model
