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
// Prompts are tokenized between two decodes, about 0.2 s for a MiB, while the running sequences
// wait: once a step has taken this many bytes, further prompts are left to the next one.
constexpr std::size_t kPromptBytesAStep = std::size_t{32} << 10;

std::chrono::seconds seconds_until(TimePoint then, TimePoint now) {
  return std::max(std::chrono::seconds(1), std::chrono::ceil<std::chrono::seconds>(then - now));
}

}  // namespace

Engine::Engine(ModelOptions options, const Clock& clock)
    : options_(std::move(options)),
      clock_(clock),
      backoff_(kFirstBackoff),
      queue_(options_.max_queue),
      drain_rate_(clock),
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
  const std::lock_guard lock(mutex_);
  stopping_.store(true, std::memory_order_relaxed);
  wake_.notify_one();
  // ~thread_ joins, after the lock is released.
}

std::optional<Refusal> Engine::submit(std::shared_ptr<GenerationRequest> request) {
  const TimePoint now = clock_.now();
  const std::lock_guard lock(mutex_);
  if (draining_) {
    return Refusal{RefusalReason::kDraining, "the agent is draining", std::nullopt};
  }
  if (request->cancelled.load(std::memory_order_relaxed)) {
    return Refusal{RefusalReason::kCancelled, "the request was cancelled", std::nullopt};
  }
  if (request->deadline && *request->deadline <= now) {
    return Refusal{RefusalReason::kDeadline, "the deadline has passed", std::nullopt};
  }
  if (retry_at_ && now < *retry_at_) {
    return Refusal{RefusalReason::kLoading, "the model could not be loaded: " + info_.failure,
                   seconds_until(*retry_at_, now)};
  }
  if (queue_.full()) {
    ++info_.refused[static_cast<std::size_t>(RefusalReason::kQueueFull)];
    return Refusal{RefusalReason::kQueueFull,
                   fmt::format("{} requests are waiting already", queue_.size()),
                   drain_rate_.retry_after(queue_.size())};
  }
  const schedule::QueueKey key{request->priority, request->deadline};
  // Cannot fail: the queue is not full.
  static_cast<void>(queue_.push(key, Waiting{std::move(request), now}));
  ++info_.accepted;
  ++outstanding_;
  wake_.notify_one();
  return std::nullopt;
}

std::optional<Duration> Engine::predicted_wait(std::int32_t /*level*/) const {
  const std::lock_guard lock(mutex_);
  const std::optional<double> per_second = drain_rate_.per_second();
  if (!per_second) return std::nullopt;
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(static_cast<double>(queue_.size()) / *per_second));
}

void Engine::begin_drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

bool Engine::wait_idle(TimePoint deadline) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline, [this] { return outstanding_ == 0; });
}

ModelInfo Engine::info() const {
  const std::lock_guard lock(mutex_);
  ModelInfo info = info_;
  info.queued = static_cast<std::uint32_t>(queue_.size());
  if (draining_ && info.state != ModelInfo::State::kFailed) {
    info.state = ModelInfo::State::kDraining;
  }
  return info;
}

void Engine::run() {
  // The kernel's limit is 15 characters.
  pthread_setname_np(pthread_self(), ("engine-" + options_.name).substr(0, 15).c_str());
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      const auto has_work = [this] {
        return load_wanted_ || !queue_.empty() || (runner_ && runner_->running() > 0);
      };
      if (!has_work()) {
        drain_rate_.set_busy(false);
      }
      wake_.wait(lock, [&] { return stopping_.load(std::memory_order_relaxed) || has_work(); });
      if (stopping_.load(std::memory_order_relaxed)) {
        break;
      }
      if (runner_) {
        load_wanted_ = false;
        drain_rate_.set_busy(true);
      }
    }
    if (runner_) {
      step();
    } else {
      load();
    }
  }
  stop();
}

void Engine::load() {
  const TimePoint start = clock_.now();
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kLoading;
    info_.load_progress = 0;
    info_.failure.clear();
    ++info_.loads;
    retry_at_.reset();
    load_wanted_ = false;
  }
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
  StepReport report;
  {
    const std::lock_guard lock(mutex_);
    info_.state = ModelInfo::State::kFailed;
    info_.failure = reason;
    retry_at_ = now + backoff_;
    for (Waiting& waiting : queue_.remove_if([](const Waiting&) { return true; })) {
      report.ended.push_back(
          {std::move(waiting.request),
           make_error(Code::kUnavailable, "the model could not be loaded: " + reason)});
    }
  }
  spdlog::error("model load failed name={} retry_s={} waiting={} reason=\"{}\"", options_.name,
                std::chrono::duration_cast<std::chrono::seconds>(backoff_).count(),
                report.ended.size(), reason);
  backoff_ = std::min(backoff_ * 2, kLongestBackoff);
  settle(report);
}

bool Engine::on_progress(float progress) {
  StepReport report;
  std::uint64_t file_bytes = 0;
  {
    const std::lock_guard lock(mutex_);
    info_.load_progress = std::clamp(progress, 0.0F, 1.0F);
    file_bytes = info_.file_bytes;
    report.ended = take_leavers_locked();
  }
  settle(report);
  const int tenths = static_cast<int>(progress * 10);
  if (file_bytes >= kBigFileBytes && tenths > logged_tenths_) {
    logged_tenths_ = tenths;
    spdlog::info("model loading name={} percent={}", options_.name, tenths * 10);
  }
  return !stopping_.load(std::memory_order_relaxed);
}

void Engine::step() {
  StepReport report;
  std::vector<Waiting> admitted;
  {
    const std::lock_guard lock(mutex_);
    report.ended = take_leavers_locked();
    std::size_t prompt_bytes = 0;
    while (admitted.size() < runner_->free_sequences() && !queue_.empty() &&
           prompt_bytes < kPromptBytesAStep) {
      admitted.push_back(std::move(*queue_.pop()));
      prompt_bytes += admitted.back().request->prompt.size();
    }
    info_.running = static_cast<std::uint32_t>(runner_->running() + admitted.size());
  }
  for (Waiting& waiting : admitted) {
    runner_->admit(std::move(waiting), report);
  }
  runner_->step(report);
  settle(report);
}

// Whoever left or expired goes before anybody is admitted, wherever it stands in the queue.
std::vector<Outcome> Engine::take_leavers_locked() {
  const TimePoint now = clock_.now();
  std::vector<Outcome> leavers;
  for (Waiting& waiting : queue_.remove_if([now](const Waiting& candidate) {
         return reason_to_leave(*candidate.request, now).has_value();
       })) {
    Error reason = *reason_to_leave(*waiting.request, now);
    leavers.push_back({std::move(waiting.request), std::move(reason)});
  }
  return leavers;
}

void Engine::settle(const StepReport& report) {
  {
    const std::lock_guard lock(mutex_);
    info_.prompt_tokens += report.prompt_tokens;
    info_.completion_tokens += report.completion_tokens;
    info_.decode_steps += report.decode_steps;
    info_.running = runner_ ? static_cast<std::uint32_t>(runner_->running()) : 0;
    for (const Outcome& outcome : report.ended) {
      drain_rate_.completed();
      if (const Error* error = std::get_if<Error>(&outcome.result)) {
        ++(error->code == Code::kCancelled ? info_.cancelled : info_.failed);
      } else {
        ++info_.completed;
      }
    }
  }
  if (report.ended.empty()) {
    return;
  }
  for (const Outcome& outcome : report.ended) {
    if (const Error* error = std::get_if<Error>(&outcome.result)) {
      outcome.request->listener->on_error(*error);
    } else {
      outcome.request->listener->on_complete(std::get<Completion>(outcome.result));
    }
  }
  const std::lock_guard lock(mutex_);
  outstanding_ -= report.ended.size();
  if (outstanding_ == 0) {
    idle_.notify_all();
  }
}

void Engine::stop() {
  const Error error = make_error(Code::kUnavailable, "the agent is stopping");
  StepReport report;
  {
    const std::lock_guard lock(mutex_);
    report.ended = take_leavers_locked();
    for (Waiting& waiting : queue_.remove_if([](const Waiting&) { return true; })) {
      report.ended.push_back({std::move(waiting.request), error});
    }
  }
  if (runner_) {
    runner_->fail_all(error, report);
  }
  settle(report);
}

}  // namespace weir::model
