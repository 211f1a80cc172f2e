// SPDX-License-Identifier: Apache-2.0
#include "agent/model/engine.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <system_error>
#include <utility>

#include "agent/model/load_estimate.h"
#include "agent/model/warm_up.h"

namespace weir::model {

Engine::Engine(ModelOptions options, const Clock& clock, schedule::TimerThread& timers,
               schedule::WorkerPool& workers, VersionHost* host)
    : options_(std::move(options)),
      clock_(clock),
      queue_(RequestQueue::create(queue_options(options_),
                                  std::size_t{options_.max_sequences} * options_.instances, clock,
                                  timers, options_.instances)),
      workers_(workers),
      life_(*this, options_, clock, queue_, workers, host) {
  for (std::size_t i = 0; i < options_.instances; ++i) {
    instances_.push_back(std::make_unique<EngineInstance>(i, *queue_, clock_, life_.stopping()));
  }
  thread_ = std::jthread([this] { run(); });
}

Engine::~Engine() {
  abandon();
  thread_.join();
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
  ModelInfo info = life_.info();
  for (const auto& instance : instances_) instance->read(info);
  return info;
}

void Engine::run() {
  name_this_thread("engine-" + options_.name);
  bool loaded = life_.wait_until_wanted();
  if (loaded) {
    if (Status status = load(); !status) {
      life_.fail(status.error());
      loaded = false;
    }
  }
  begun_.set_value(loaded);
  if (loaded) instances_.front()->run([this] { life_.idle(); });
  others_.clear();
  stop();
}

Status Engine::load() {
  const TimePoint start = clock_.now();
  auto contexts = load_file();
  if (!contexts) return std::move(contexts).error();
  const TimePoint loaded_at = clock_.now();
  if (Status made = make_instances(*std::move(contexts)); !made) return made;
  const LoadedModel& model = instances_.front()->model();
  tokenizer_.emplace(*queue_, model, workers_);
  const ModelInfo info = life_.ready(model.parameters(), model.context_tokens());
  const auto ms = [](Duration took) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(took).count();
  };
  spdlog::info(
      "model loaded name={} path={} ms={} warm_ms={} bytes={} parameters={} instances={} "
      "sequences={} context_tokens={}",
      info.name, info.path, ms(loaded_at - start), ms(clock_.now() - loaded_at), info.file_bytes,
      info.parameters, options_.instances, options_.max_sequences, info.context_tokens);
  life_.warmed();
  return {};
}

Status Engine::make_instances(std::vector<LoadedModel> contexts) {
  const RunnerOptions runner{options_.park_bytes / options_.instances, options_.prefix_reuse,
                             options_.max_draft_tokens};
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    if (Status warmed = warm_up(contexts[i], life_.stopping()); !warmed) return warmed;
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
  const auto file = life_.open();
  if (!file) return file.error();
  const MemoryReading estimate = estimate_memory(options_, *file);
  if (Status reserved = life_.reserve(estimate); !reserved) {
    return std::move(reserved).error();
  }
  auto weights = life_.load_weights(*file);
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
  if (Status reserved = life_.reserve(memory); !reserved) return std::move(reserved).error();
  life_.loaded(*weights, memory);
  return contexts;
}

void Engine::stop() {
  const Error error = life_.retire();
  for (const auto& instance : instances_) instance->end(error);
  queue_->fail_waiting(error);
  tokenizer_.reset();
  life_.end();
}

}  // namespace weir::model
