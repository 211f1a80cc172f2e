// SPDX-License-Identifier: Apache-2.0
#include "agent/model/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>
#include <system_error>
#include <utility>

#include "agent/model/engine.h"
#include "agent/model/identity.h"
#include "agent/model/one_shot_runner.h"

namespace weir::model {

namespace {

constexpr std::size_t kLongestName = 128;

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

Status in_range(const ModelOptions& options, std::string_view field,
                std::optional<std::uint32_t> value, std::uint32_t low, std::uint32_t high) {
  if (value && (*value < low || *value > high)) {
    return make_error(Code::kInvalidArgument, fmt::format("model \"{}\": {} must be {}..{}, not {}",
                                                          options.name, field, low, high, *value));
  }
  return {};
}

/// For the message of a value that is far too large anyway.
std::uint32_t narrow(std::size_t value) {
  return static_cast<std::uint32_t>(
      std::min<std::size_t>(value, std::numeric_limits<std::uint32_t>::max()));
}

std::unique_ptr<Runner> make_runner(ModelOptions options, const Clock& clock,
                                    schedule::TimerThread& timers, schedule::WorkerPool& workers) {
  if (!options.identity) {
    return std::make_unique<Engine>(std::move(options), clock, timers, workers);
  }
  options.queue.all.max_requests = options.max_queue;
  return std::make_unique<OneShotRunner>(
      OneShotOptions{std::move(options.name), "identity", std::move(options.batch),
                     std::move(options.queue)},
      std::make_unique<Identity>(*options.identity), clock, timers);
}

Status validate(const ModelOptions& options) {
  if (options.name.empty() || options.name.size() > kLongestName ||
      !std::all_of(options.name.begin(), options.name.end(), is_name_character)) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("model \"{}\": name must be 1..{} characters of [A-Za-z0-9._-]",
                                  options.name, kLongestName));
  }
  if (options.path.empty() && !options.identity) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("model \"{}\": path is missing", options.name));
  }
  const schedule::BatchOptions& batch = options.batch;
  for (Status status :
       {in_range(options, "max_sequences", options.max_sequences, 1, 256),
        in_range(options, "context_tokens", options.context_tokens, 32, kMostContextTokens),
        in_range(options, "max_queue", options.max_queue, 1, 1048576),
        in_range(options, "threads", options.threads, 1, 1024),
        in_range(options, "batch.max_batch_size", narrow(batch.max_batch_size), 1, 4096),
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

Result<std::unique_ptr<Registry>> Registry::create(std::vector<ModelOptions> models,
                                                   const Clock& clock,
                                                   schedule::WorkerPool& workers) {
  std::set<std::string_view> names;
  for (const ModelOptions& options : models) {
    if (Status status = validate(options); !status) {
      return std::move(status).error();
    }
    if (!names.insert(options.name).second) {
      return make_error(Code::kInvalidArgument,
                        fmt::format("model \"{}\": name occurs twice", options.name));
    }
  }
  try {
    std::unique_ptr<Registry> registry(new Registry(clock));
    for (ModelOptions& options : models) {
      std::string name = options.name;
      auto runner = make_runner(std::move(options), clock, registry->timers_, workers);
      registry->runners_.emplace(std::move(name), std::move(runner));
    }
    return registry;
  } catch (const std::system_error& refused) {
    return os_error(refused.code().value(),
                    fmt::format("starting the threads of {} models", models.size()));
  }
}

std::optional<Refusal> Registry::submit(std::string_view model,
                                        std::shared_ptr<GenerationRequest> request) {
  return runners_.find(model)->second->submit(std::move(request));
}

std::optional<Duration> Registry::predicted_wait(std::string_view model, std::int32_t level) const {
  const auto runner = runners_.find(model);
  return runner == runners_.end() ? std::nullopt : runner->second->predicted_wait(level);
}

bool Registry::has_model(std::string_view model) const { return runners_.contains(model); }

std::vector<ModelInfo> Registry::models() const {
  std::vector<ModelInfo> infos;
  infos.reserve(runners_.size());
  for (const auto& [name, runner] : runners_) {
    infos.push_back(runner->info());
  }
  return infos;
}

void Registry::begin_drain() {
  for (const auto& [name, runner] : runners_) {
    runner->begin_drain();
  }
}

bool Registry::wait_idle(Duration timeout) {
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  bool idle = true;
  for (const auto& [name, runner] : runners_) {
    idle = runner->wait_idle(deadline) && idle;
  }
  return idle;
}

}  // namespace weir::model
