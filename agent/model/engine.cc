// SPDX-License-Identifier: Apache-2.0
#include "agent/model/engine.h"

#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "agent/model/gguf_vetting.h"
#include "agent/model/load_estimate.h"
#include "agent/model/warm_up.h"

namespace weir::model {

namespace {

// Files below load within a second or two from a disk; a progress line would be noise.
constexpr std::uint64_t kBigFileBytes = std::uint64_t{256} << 20;

schedule::QueueOptions queue_options(const ModelOptions& options) {
  schedule::QueueOptions queue = options.queue;
  queue.all.max_requests = options.max_queue;
  return queue;
}

/// The kernel's limit is 15 characters.
void name_this_thread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

}  // namespace

Engine::Engine(ModelOptions options, const Clock& clock, schedule::TimerThread& timers,
               schedule::WorkerPool& workers, VersionHost* host)
    : options_(std::move(options)),
      clock_(clock),
      queue_(RequestQueue::create(queue_options(options_),
                                  std::size_t{options_.max_sequences} * options_.instances, clock,
                                  timers, options_.instances)),
      workers_(workers),
      host_(host),
      load_wanted_(options_.preload) {
  info_.name = options_.name;
  info_.path = options_.path;
  for (std::size_t i = 0; i < options_.instances; ++i) {
    instances_.push_back(std::make_unique<EngineInstance>(i, *queue_, clock_, stopping_));
  }
  if (host_ != nullptr) queue_->poke_when_idle();
  thread_ = std::jthread([this] { run(); });
}

Engine::~Engine() {
  abandon();
  thread_.join();
}

void Engine::begin() {
  {
    const std::lock_guard lock(mutex_);
    load_wanted_ = true;
  }
  queue_->poke();
}

void Engine::abandon() {
  stopping_.store(true, std::memory_order_relaxed);
  queue_->poke();
}

std::optional<FileStamp> Engine::stamp() const {
  const std::lock_guard lock(mutex_);
  return stamp_;
}

std::optional<Refusal> Engine::submit(std::shared_ptr<GenerationRequest> request) {
  return queue_->submit(std::move(request));
}

std::optional<Duration> Engine::predicted_wait(std::int32_t level) const {
  return queue_->predicted_wait(level);
}

void Engine::begin_drain() { queue_->begin_drain(); }

bool Engine::wait_idle(TimePoint deadline) { return queue_->wait_idle(deadline); }

ModelInfo Engine::info() const {
  ModelInfo info;
  std::shared_ptr<ModelFile> file;
  {
    const std::lock_guard lock(mutex_);
    info = info_;
    file = file_;
  }
  if (file) info.memory.resident_bytes = file->recently_resident(clock_.now(), workers_);
  queue_->read(info);
  for (const auto& instance : instances_) instance->read(info);
  return info;
}

void Engine::run() {
  name_this_thread("engine-" + options_.name);
  const bool loaded = wait_until_wanted() && load();
  begun_.set_value(loaded);
  if (loaded) {
    instances_.front()->run([this] {
      if (host_ != nullptr) host_->idle(*this);
    });
  }
  others_.clear();
  stop();
}

bool Engine::wait_until_wanted() {
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (take_load_wanted() || queue_->has_work()) return true;
    if (queue_->idle()) {
      if (queue_->retired()) return false;
      if (host_ != nullptr) host_->idle(*this);
    }
    queue_->wait_for_work();
  }
  return false;
}

bool Engine::take_load_wanted() {
  const std::lock_guard lock(mutex_);
  return std::exchange(load_wanted_, false);
}

void Engine::set_state(ModelInfo::State state) {
  const std::lock_guard lock(mutex_);
  info_.state = state;
}

bool Engine::load() {
  const TimePoint start = clock_.now();
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kLoading;
    ++info_.loads;
    stamp_ = file_stamp(options_.path);
  }
  auto contexts = load_file();
  const TimePoint loaded_at = clock_.now();
  if (!contexts) {
    fail_load(contexts.error());
    return false;
  }
  set_state(ModelInfo::State::kWarming);
  if (host_ != nullptr) host_->loaded(*this);
  if (Status made = make_instances(*std::move(contexts)); !made) {
    fail_load(made.error());
    return false;
  }
  const LoadedModel& model = instances_.front()->model();
  tokenizer_.emplace(*queue_, model, workers_);
  ModelInfo info;
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kReady;
    info_.load_progress = 1;
    info_.parameters = model.parameters();
    info_.context_tokens = model.context_tokens();
    info = info_;
  }
  const auto ms = [](Duration took) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(took).count();
  };
  spdlog::info(
      "model loaded name={} path={} ms={} warm_ms={} bytes={} parameters={} instances={} "
      "sequences={} context_tokens={}",
      info.name, info.path, ms(loaded_at - start), ms(clock_.now() - loaded_at), info.file_bytes,
      info.parameters, options_.instances, options_.max_sequences, info.context_tokens);
  if (host_ != nullptr) host_->warmed(*this);
  return true;
}

Status Engine::make_instances(std::vector<LoadedModel> contexts) {
  const RunnerOptions runner{options_.park_bytes / options_.instances, options_.prefix_reuse,
                             options_.max_draft_tokens};
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    if (Status warmed = warm_up(contexts[i], stopping_); !warmed) return warmed;
    instances_[i]->begin(std::move(contexts[i]), runner);
  }
  const std::shared_future<bool> begun = begun_.get_future();
  try {
    for (std::size_t i = 1; i < instances_.size(); ++i) {
      others_.emplace_back([this, begun, i] {
        name_this_thread(fmt::format("engine{}-{}", i, options_.name));
        if (begun.get()) instances_[i]->run({});
      });
    }
  } catch (const std::system_error& failure) {
    return make_error(Code::kUnavailable, fmt::format("starting the threads of {} instances: {}",
                                                      instances_.size(), failure.what()));
  }
  return {};
}

Result<std::vector<LoadedModel>> Engine::load_file() {
  const auto reserve = [this](std::uint64_t bytes) -> Status {
    if (host_ == nullptr) return {};
    Status reserved = host_->reserve(*this, bytes);
    no_memory_ = !reserved.ok();
    return reserved;
  };
  const auto file = gguf_vetting().check(options_.path);
  if (!file) return file.error();
  {
    const std::lock_guard lock(mutex_);
    info_.file_bytes = file->bytes;
    if (stamp_) info_.created_unix_seconds = stamp_->modified_unix_seconds();
  }
  const MemoryReading estimate = estimate_memory(options_, *file);
  if (Status reserved = reserve(estimate.all()); !reserved) return std::move(reserved).error();
  logged_tenths_ = 0;
  auto weights = LoadedModel::load_weights(
      options_, *file, [this](float progress) { return on_progress(progress); });
  if (!weights) return std::move(weights).error();
  std::vector<LoadedModel> contexts;
  MemoryReading memory;
  for (std::size_t i = 0; i < instances_.size(); ++i) {
    auto model = LoadedModel::make(*weights, options_);
    if (!model) return std::move(model).error();
    memory.add(model->context_memory());
    contexts.push_back(std::move(*model));
  }
  memory.mapped_bytes = weights->file_bytes;
  memory.copied_bytes = weights->copied_bytes;
  // Every context computes with something: this libllama words its log in another way.
  if (memory.compute_bytes == 0) memory = estimate;
  if (Status reserved = reserve(memory.all()); !reserved) return std::move(reserved).error();
  const std::lock_guard lock(mutex_);
  info_.memory = memory;
  if (weights->thin) ++info_.thin_loads;
  file_ = weights->file;
  return contexts;
}

void Engine::fail_load(const Error& error) {
  if (stopping_.load(std::memory_order_relaxed)) {
    return;  // which ended the load; stop() tells the listeners
  }
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kFailed;
    info_.failure = error.message;
  }
  spdlog::error("model load failed name={} reason=\"{}\"", options_.name, error.message);
  // First the host: nobody may slip in between and wait for a load that is not tried.
  if (host_ != nullptr) host_->load_failed(*this, error, no_memory_);
  queue_->retire(/*if_idle=*/false);
  queue_->fail_waiting(make_error(no_memory_ ? Code::kResourceExhausted : Code::kUnavailable,
                                  "the model could not be loaded: " + error.message));
}

bool Engine::on_progress(float progress) {
  std::uint64_t file_bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    info_.load_progress = std::clamp(progress, 0.0F, 1.0F);
    file_bytes = info_.file_bytes;
  }
  const int tenths = static_cast<int>(progress * 10);
  if (file_bytes >= kBigFileBytes && tenths > logged_tenths_) {
    logged_tenths_ = tenths;
    spdlog::info("model loading name={} percent={}", options_.name, tenths * 10);
  }
  if (host_ != nullptr) host_->load_progressed(*this, progress);
  return !stopping_.load(std::memory_order_relaxed);
}

void Engine::stop() {
  const Error error = make_error(Code::kUnavailable, "the agent is stopping");
  queue_->retire(/*if_idle=*/false);
  for (const auto& instance : instances_) instance->end(error);
  queue_->fail_waiting(error);
  tokenizer_.reset();
  {
    const std::lock_guard lock(mutex_);
    info_.memory = {};
    file_.reset();
  }
  queue_->close();
  if (host_ != nullptr) host_->released(*this);
}

}  // namespace weir::model
