// SPDX-License-Identifier: Apache-2.0
#include "agent/model/engine.h"

#include <fmt/format.h>
#include <pthread.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "agent/model/gguf_header.h"

namespace weir::model {

namespace {

constexpr Duration kFirstBackoff = std::chrono::seconds(5);
constexpr Duration kLongestBackoff = std::chrono::seconds(60);
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
               schedule::WorkerPool& workers)
    : options_(std::move(options)),
      clock_(clock),
      queue_(RequestQueue::create(queue_options(options_), options_.max_sequences, clock, timers)),
      workers_(workers),
      backoff_(kFirstBackoff),
      load_wanted_(options_.preload) {
  info_.name = options_.name;
  info_.path = options_.path;
  if (const auto file = inspect_gguf_file(options_.path)) {
    info_.file_bytes = file->bytes;
    info_.created_unix_seconds = file->modified_unix_seconds;
  }
  thread_ = std::jthread([this] { run(); });
}

Engine::~Engine() {
  stopping_.store(true, std::memory_order_relaxed);
  queue_->poke();
  thread_.join();
  queue_->close();
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
  {
    const std::lock_guard lock(mutex_);
    info = info_;
  }
  queue_->read(info);
  return info;
}

void Engine::run() {
  // The kernel's limit is 15 characters.
  pthread_setname_np(pthread_self(), ("engine-" + options_.name).substr(0, 15).c_str());
  while (!stopping_.load(std::memory_order_relaxed)) {
    const bool something_runs = runner_ && runner_->running() > 0;
    if (!runner_ && (take_load_wanted() || queue_->has_work())) {
      load();
    } else if (something_runs || queue_->has_work()) {
      step();
    } else {
      queue_->wait_for_work();
    }
  }
  stop();
}

bool Engine::take_load_wanted() {
  const std::lock_guard lock(mutex_);
  return std::exchange(load_wanted_, false);
}

void Engine::load() {
  const TimePoint start = clock_.now();
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kLoading;
    info_.load_progress = 0;
    info_.failure.clear();
    ++info_.loads;
  }
  queue_->accept();
  const auto file = inspect_gguf_file(options_.path);
  if (file) {
    const std::lock_guard lock(mutex_);
    info_.file_bytes = file->bytes;
    info_.created_unix_seconds = file->modified_unix_seconds;
  }
  logged_tenths_ = 0;
  auto loaded =
      LoadedModel::load(options_, [this](float progress) { return on_progress(progress); });
  const TimePoint now = clock_.now();
  if (loaded) {
    runner_ = std::make_unique<BatchRunner>(std::move(*loaded), clock_, stopping_);
    tokenizer_.emplace(*queue_, runner_->model(), workers_);
    backoff_ = kFirstBackoff;
    ModelInfo loaded_info;
    {
      const std::lock_guard lock(mutex_);
      info_.state = ModelInfo::State::kReady;
      info_.load_progress = 1;
      info_.parameters = runner_->model().parameters();
      info_.context_tokens = runner_->model().context_tokens();
      loaded_info = info_;
    }
    spdlog::info(
        "model loaded name={} path={} ms={} bytes={} parameters={} sequences={} context_tokens={}",
        loaded_info.name, loaded_info.path,
        std::chrono::duration_cast<std::chrono::milliseconds>(now - start).count(),
        loaded_info.file_bytes, loaded_info.parameters, options_.max_sequences,
        loaded_info.context_tokens);
    return;
  }
  if (stopping_.load(std::memory_order_relaxed)) {
    return;  // on_progress() stopped it; stop() tells the listeners
  }
  const std::string& reason = loaded.error().message;
  const std::string told = "the model could not be loaded: " + reason;
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kFailed;
    info_.failure = reason;
  }
  // First refuse: nobody may slip in between and wait for a load that is not tried.
  queue_->refuse_until(now + backoff_, told);
  spdlog::error("model load failed name={} retry_s={} reason=\"{}\"", options_.name,
                std::chrono::duration_cast<std::chrono::seconds>(backoff_).count(), reason);
  backoff_ = std::min(backoff_ * 2, kLongestBackoff);
  queue_->fail_waiting(make_error(Code::kUnavailable, told));
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
  return !stopping_.load(std::memory_order_relaxed);
}

void Engine::step() {
  StepReport report;
  runner_->let_go(report);
  settle(report);
  std::vector<Taken> taken = queue_->take(runner_->free_sequences());
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
    queue_->rest(kRest, runner_->free_sequences() > 0);
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
  }
  queue_->settle(report.ended);
  report = {};
}

void Engine::stop() {
  const Error error = make_error(Code::kUnavailable, "the agent is stopping");
  StepReport report;
  if (runner_) {
    runner_->fail_all(error, report);
  }
  settle(report);
  queue_->fail_waiting(error);
}

}  // namespace weir::model
