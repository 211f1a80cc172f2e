// SPDX-License-Identifier: Apache-2.0
#include "agent/model/generation.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

namespace weir::model {

std::string_view to_string(Degraded degraded) {
  switch (degraded) {
    case Degraded::kCached:
      return "cached";
    case Degraded::kDefault:
      return "default";
  }
  return "unknown";
}

Error as_error(const Refusal& refusal) {
  switch (refusal.reason) {
    case RefusalReason::kQueueFull:
    case RefusalReason::kRateLimited:
    case RefusalReason::kDeadline:
    case RefusalReason::kMemory:
      return make_error(Code::kResourceExhausted, refusal.message);
    case RefusalReason::kBreakerOpen:
    case RefusalReason::kDraining:
    case RefusalReason::kLoading:
      return make_error(Code::kUnavailable, refusal.message);
    case RefusalReason::kCancelled:
      return make_error(Code::kCancelled, refusal.message);
  }
  return make_error(Code::kInternal, refusal.message);
}

void Listener::on_refused(const Refusal& refusal) { on_error(as_error(refusal)); }

void GenerationRequest::cancel() {
  cancelled.store(true, std::memory_order_relaxed);
  std::function<void()> canceller;
  {
    const std::lock_guard lock(mutex_);
    canceller = std::exchange(canceller_, nullptr);
  }
  if (canceller) canceller();
}

void GenerationRequest::set_canceller(std::function<void()> canceller) {
  {
    const std::lock_guard lock(mutex_);
    if (!cancelled.load(std::memory_order_relaxed)) {
      canceller_ = std::move(canceller);
      return;
    }
  }
  canceller();
}

std::uint64_t estimated_tokens(const GenerationRequest& request) {
  constexpr std::uint64_t kBytesPerToken = 4;
  const std::uint64_t texts = request.embedding ? request.embedding->estimated_tokens() : 0;
  return (request.prompt.size() + kBytesPerToken - 1) / kBytesPerToken + texts + request.max_tokens;
}

bool is_past_deadline(const GenerationRequest& request, TimePoint now) {
  return request.deadline && now >= *request.deadline;
}

std::optional<Error> reason_to_leave(const GenerationRequest& request, TimePoint now) {
  if (request.cancelled.load(std::memory_order_relaxed)) {
    return make_error(Code::kCancelled, "the request was cancelled");
  }
  if (is_past_deadline(request, now)) {
    return make_error(
        Code::kResourceExhausted,
        fmt::format("the deadline passed {} ms ago",
                    std::chrono::duration_cast<std::chrono::milliseconds>(now - *request.deadline)
                        .count()));
  }
  return std::nullopt;
}

Task Executor::task(std::string_view model) const {
  for (const ModelInfo& info : models()) {
    if (info.name == model) return info.task;
  }
  return Task::kGenerate;
}

std::string_view to_string(UnloadCause cause) {
  switch (cause) {
    case UnloadCause::kIdle:
      return "idle";
    case UnloadCause::kExplicit:
      return "explicit";
    case UnloadCause::kEvicted:
      return "evicted";
    case UnloadCause::kReplaced:
      return "replaced";
  }
  return "unknown";
}

void ModelInfo::add_counts(const ModelInfo& version) {
  queued += version.queued;
  queued_tokens += version.queued_tokens;
  overdue += version.overdue;
  running += version.running;
  resting += version.resting;
  accepted += version.accepted;
  completed += version.completed;
  failed += version.failed;
  cancelled += version.cancelled;
  expired += version.expired;
  for (std::size_t i = 0; i < refused.size(); ++i) refused[i] += version.refused[i];
  promoted += version.promoted;
  for (std::size_t i = 0; i < queue_wait.counts.size(); ++i) {
    queue_wait.counts[i] += version.queue_wait.counts[i];
  }
  queue_wait.sum += version.queue_wait.sum;
  prompt_tokens += version.prompt_tokens;
  completion_tokens += version.completion_tokens;
  decode_steps += version.decode_steps;
  decode_aborts += version.decode_aborts;
  thin_loads += version.thin_loads;
  memory.add(version.memory);
  engine.add(version.engine);
  if (version.batches) {
    if (!batches) batches.emplace();
    batches->add(*version.batches);
  }
  if (instances.size() < version.instances.size()) instances.resize(version.instances.size());
  for (std::size_t i = 0; i < version.instances.size(); ++i) {
    instances[i].add(version.instances[i]);
  }
}

std::string_view to_string(ModelInfo::State state) {
  switch (state) {
    case ModelInfo::State::kUnloaded:
      return "unloaded";
    case ModelInfo::State::kLoading:
      return "loading";
    case ModelInfo::State::kWarming:
      return "warming";
    case ModelInfo::State::kReady:
      return "ready";
    case ModelInfo::State::kFailed:
      return "failed";
    case ModelInfo::State::kDraining:
      return "draining";
  }
  return "unknown";
}

}  // namespace weir::model
