// SPDX-License-Identifier: Apache-2.0
#include "agent/model/engine.h"

#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "agent/model/gguf_vetting.h"
#include "agent/model/load_estimate.h"
#include "agent/model/warm_up.h"

namespace weir::model {

namespace {

// Files below load within a second or two from a disk; a progress line would be noise.
constexpr std::uint64_t kBigFileBytes = std::uint64_t{256} << 20;

// When every client is slow nothing tells that one of them reads again.
constexpr Duration kRest = std::chrono::milliseconds(5);

schedule::QueueOptions queue_options(const ModelOptions& options) {
  schedule::QueueOptions queue = options.queue;
  queue.all.max_requests = options.max_queue;
  return queue;
}

}  // namespace

Engine::Engine(ModelOptions options, const Clock& clock, schedule::TimerThread& timers,
               schedule::WorkerPool& workers, VersionHost* host)
    : options_(std::move(options)),
      clock_(clock),
      queue_(RequestQueue::create(queue_options(options_), options_.max_sequences, clock, timers)),
      workers_(workers),
      host_(host),
      load_wanted_(options_.preload) {
  info_.name = options_.name;
  info_.path = options_.path;
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
  return info;
}

void Engine::run() {
  // The kernel's limit is 15 characters.
  pthread_setname_np(pthread_self(), ("engine-" + options_.name).substr(0, 15).c_str());
  while (!stopping_.load(std::memory_order_relaxed)) {
    const bool something_runs = runner_ && runner_->running() > 0;
    if (!runner_ && (take_load_wanted() || queue_->has_work())) {
      if (!load()) break;
    } else if (something_runs || (runner_ && queue_->has_work())) {
      step();
    } else if (!queue_->idle()) {
      queue_->wait_for_work();  // prompts are being tokenized
    } else if (queue_->retired()) {
      break;
    } else {
      if (host_ != nullptr) host_->idle(*this);
      queue_->wait_for_work();
    }
  }
  stop();
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
  auto model = load_file();
  const TimePoint loaded_at = clock_.now();
  if (model) {
    set_state(ModelInfo::State::kWarming);
    if (host_ != nullptr) host_->loaded(*this);
    if (Status warmed = warm_up(*model, stopping_); !warmed) model = std::move(warmed).error();
  }
  if (!model) {
    fail_load(model.error());
    return false;
  }
  runner_ = std::make_unique<BatchRunner>(std::move(*model), clock_, stopping_,
                                          RunnerOptions{options_.park_bytes, options_.prefix_reuse},
                                          [this] { return queue_->most_urgent(); });
  tokenizer_.emplace(*queue_, runner_->model(), workers_);
  ModelInfo info;
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kReady;
    info_.load_progress = 1;
    info_.parameters = runner_->model().parameters();
    info_.context_tokens = runner_->model().context_tokens();
    info = info_;
  }
  const auto ms = [](Duration took) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(took).count();
  };
  spdlog::info(
      "model loaded name={} path={} ms={} warm_ms={} bytes={} parameters={} sequences={} "
      "context_tokens={}",
      info.name, info.path, ms(loaded_at - start), ms(clock_.now() - loaded_at), info.file_bytes,
      info.parameters, options_.max_sequences, info.context_tokens);
  if (host_ != nullptr) host_->warmed(*this);
  return true;
}

Result<LoadedModel> Engine::load_file() {
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
  auto model = LoadedModel::make(*weights, options_);
  if (!model) return std::move(model).error();
  MemoryReading memory = model->context_memory();
  memory.mapped_bytes = weights->file_bytes;
  memory.copied_bytes = weights->copied_bytes;
  // Every context computes with something: this libllama words its log in another way.
  if (memory.compute_bytes == 0) memory = estimate;
  if (Status reserved = reserve(memory.all()); !reserved) return std::move(reserved).error();
  const std::lock_guard lock(mutex_);
  info_.memory = memory;
  if (weights->thin) ++info_.thin_loads;
  file_ = weights->file;
  return model;
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

void Engine::step() {
  StepReport report;
  runner_->let_go(report);
  settle(report);
  std::vector<Taken> taken = queue_->take(runner_->room(queue_->most_urgent()));
  {
    const std::lock_guard lock(mutex_);
    info_.running = static_cast<std::uint32_t>(runner_->running() + taken.size());
  }
  for (Taken& one : taken) {
    runner_->admit(std::move(one), report);
  }
  settle(report);  // nobody who has ended waits for a decode of the others
  runner_->step(report);
  settle(report);
  if (runner_->running() > 0 && runner_->running() == runner_->resting()) {
    queue_->rest(kRest, runner_->room(queue_->most_urgent()) > 0);
  }
}

void Engine::settle(StepReport& report) {
  {
    const std::lock_guard lock(mutex_);
    info_.prompt_tokens += report.prompt_tokens;
    info_.completion_tokens += report.completion_tokens;
    info_.decode_steps += report.decode_steps;
    info_.decode_aborts += report.decode_aborts;
    info_.running = runner_ ? static_cast<std::uint32_t>(runner_->running()) : 0;
    info_.resting = runner_ ? static_cast<std::uint32_t>(runner_->resting()) : 0;
    if (runner_) info_.engine = runner_->reading();
  }
  queue_->settle(report.ended);
  report = {};
}

void Engine::stop() {
  const Error error = make_error(Code::kUnavailable, "the agent is stopping");
  queue_->retire(/*if_idle=*/false);
  StepReport report;
  if (runner_) {
    runner_->fail_all(error, report);
  }
  settle(report);
  queue_->fail_waiting(error);
  tokenizer_.reset();
  runner_.reset();
  {
    const std::lock_guard lock(mutex_);
    info_.engine.clear_gauges();
    info_.memory = {};
    file_.reset();
  }
  queue_->close();
  if (host_ != nullptr) host_->released(*this);
}

}  // namespace weir::model
