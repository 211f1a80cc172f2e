// SPDX-License-Identifier: Apache-2.0
#include "agent/model/engine_instance.h"

#include <chrono>
#include <utility>
#include <vector>

namespace weir::model {

namespace {

// When every client is slow nothing tells that one of them reads again.
constexpr Duration kRest = std::chrono::milliseconds(5);

}  // namespace

EngineInstance::EngineInstance(std::size_t number, RequestQueue& queue, const Clock& clock,
                               const std::atomic<bool>& stopping)
    : number_(number), queue_(queue), clock_(clock), stopping_(stopping) {}

void EngineInstance::begin(LoadedModel model, const RunnerOptions& options) {
  RunnerOptions with_steps = options;
  with_steps.meanwhile = [this] { step(); };
  runner_ = std::make_unique<BatchRunner>(std::move(model), clock_, stopping_, with_steps,
                                          [this] { return queue_.most_urgent(number_); });
}

void EngineInstance::run(const std::function<void()>& on_idle) {
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (runner_->running() > 0 || queue_.has_work()) {
      step();
      continue;
    }
    if (queue_.idle()) {
      if (queue_.retired()) return;
      if (on_idle) on_idle();
    }
    queue_.wait_for_work(number_);
  }
}

void EngineInstance::step() {
  StepReport report;
  runner_->let_go(report);
  settle(report);
  std::vector<Taken> taken = queue_.take(runner_->room(queue_.most_urgent(number_)), number_);
  {
    const std::lock_guard lock(mutex_);
    reading_.running = static_cast<std::uint32_t>(runner_->running() + taken.size());
  }
  for (Taken& one : taken) {
    runner_->admit(std::move(one), report);
  }
  settle(report);  // nobody who has ended waits for a decode of the others
  runner_->step(report);
  settle(report);
  if (runner_->running() > 0 && runner_->running() == runner_->resting()) {
    queue_.rest(kRest, runner_->room(queue_.most_urgent(number_)) > 0, number_);
  }
}

void EngineInstance::settle(StepReport& report) {
  {
    const std::lock_guard lock(mutex_);
    reading_.running = static_cast<std::uint32_t>(runner_->running());
    reading_.completion_tokens += report.completion_tokens;
    reading_.decode_steps += report.decode_steps;
    resting_ = static_cast<std::uint32_t>(runner_->resting());
    prompt_tokens_ += report.prompt_tokens;
    decode_aborts_ += report.decode_aborts;
    engine_ = runner_->reading();
  }
  queue_.settle(report.ended, number_);
  report = {};
}

void EngineInstance::end(const Error& error) {
  if (!runner_) return;
  StepReport report;
  runner_->fail_all(error, report);
  settle(report);
  runner_.reset();
  const std::lock_guard lock(mutex_);
  engine_.clear_gauges();
}

void EngineInstance::read(ModelInfo& info) const {
  const std::lock_guard lock(mutex_);
  info.prompt_tokens += prompt_tokens_;
  info.completion_tokens += reading_.completion_tokens;
  info.decode_steps += reading_.decode_steps;
  info.decode_aborts += decode_aborts_;
  info.running += reading_.running;
  info.resting += resting_;
  info.engine.add(engine_);
  if (info.instances.size() <= number_) info.instances.resize(number_ + 1);
  info.instances[number_].add(reading_);
}

}  // namespace weir::model
