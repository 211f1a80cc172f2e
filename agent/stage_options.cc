// SPDX-License-Identifier: Apache-2.0
#include "agent/stage_options.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "agent/admit/memory_limit.h"
#include "agent/config/batch_rules.h"

namespace weir {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

schedule::QueueOptions queue_options(const weir::v1::Queue& queue,
                                     const weir::v1::Admission& admission) {
  schedule::QueueOptions options;
  if (queue.has_max_tokens()) options.all.max_tokens = queue.max_tokens();
  if (queue.ageing_ms() > 0) options.ageing = milliseconds(queue.ageing_ms());
  for (const auto& level : queue.levels()) {
    schedule::QueueBounds& bounds = options.levels[level.level()];
    if (level.has_max_requests()) bounds.max_requests = level.max_requests();
    if (level.has_max_tokens()) bounds.max_tokens = level.max_tokens();
  }
  for (const auto& tenant : admission.tenants()) options.weights[tenant.name()] = tenant.weight();
  return options;
}

schedule::BatchOptions batch_options(const weir::v1::Model& model) {
  const weir::v1::Batch& batch = model.batch();
  const weir::v1::BatchMode mode = config::batch_mode(model);
  using std::chrono::microseconds;
  schedule::BatchOptions options;
  options.max_batch_size = config::max_batch_size(batch);
  options.timeout = microseconds(batch.batch_timeout_micros());
  if (batch.has_preferred_batch_size()) options.preferred_batch_size = batch.preferred_batch_size();
  options.preferred_batch_size = std::min(options.preferred_batch_size, options.max_batch_size);
  if (mode == weir::v1::LEVELS) options.mode = schedule::BatchMode::kByLoad;
  if (mode == weir::v1::LEARNED) options.mode = schedule::BatchMode::kLearned;
  for (const auto& given : batch.levels()) {
    schedule::BatchLevel& level = options.levels.emplace_back();
    if (given.has_below_waiting()) level.below_waiting = given.below_waiting();
    level.max_batch_size = given.max_batch_size();
    level.timeout = microseconds(given.batch_timeout_micros());
  }
  if (batch.has_instances()) options.instances = batch.instances();
  return options;
}

model::IdentityOptions identity_options(const weir::v1::Identity& identity) {
  using std::chrono::microseconds;
  return {microseconds(identity.batch_micros()), microseconds(identity.item_micros()),
          identity.busy()};
}

template <typename Message>
std::optional<Duration> keep_alive_of(const Message& message) {
  if (!message.has_keep_alive_seconds()) return std::nullopt;
  return seconds(message.keep_alive_seconds());
}

std::optional<Duration> keep_alive(const weir::v1::Model& model,
                                   const weir::v1::Registry& registry) {
  const auto own = keep_alive_of(model);
  return own ? own : keep_alive_of(registry);
}

}  // namespace

// An eighth is left to requests and the kernel. The files are page cache, which the kernel takes
// back when it must: it is no matter of survival.
Result<model::RegistryOptions> registry_options(const weir::v1::Config& config) {
  const weir::v1::Registry& given = config.registry();
  model::RegistryOptions options;
  if (given.has_memory_bytes()) {
    options.memory_bytes = given.memory_bytes();
  } else {
    auto limit = admit::memory_limit();
    if (!limit) return std::move(limit).error().context("registry.memory_bytes");
    options.memory_bytes = limit->bytes / 8 * 7;
    spdlog::info("registry memory_bytes={} source={}", *options.memory_bytes, limit->source);
  }
  options.directory = given.model_dir();
  // Of those that embed or score.
  options.of_directory.batch.mode = schedule::BatchMode::kLearned;
  options.of_directory.instance_per_thread = true;
  options.of_directory.keep_alive = keep_alive_of(given);
  options.of_directory.queue = queue_options(weir::v1::Queue(), config.admission());
  if (given.poll_seconds() > 0) options.poll = seconds(given.poll_seconds());
  return options;
}

namespace {

model::TrialMode trial_mode(const weir::v1::Model& model) {
  switch (model.trial()) {
    case weir::v1::Model::ALWAYS:
      return model::TrialMode::kAlways;
    case weir::v1::Model::NEVER:
      return model::TrialMode::kNever;
    default:
      return model::TrialMode::kAuto;
  }
}

model::Prefetch prefetch_of(const weir::v1::Model& model) {
  switch (model.prefetch()) {
    case weir::v1::Model::SEQUENTIAL:
      return model::Prefetch::kSequential;
    case weir::v1::Model::POPULATE:
      return model::Prefetch::kPopulate;
    case weir::v1::Model::NONE:
      return model::Prefetch::kNone;
    default:
      return model::Prefetch::kWillneed;
  }
}

model::Task task_of(const weir::v1::Model& model) {
  switch (model.task()) {
    case weir::v1::EMBED:
      return model::Task::kEmbed;
    case weir::v1::SCORE:
      return model::Task::kScore;
    default:
      return model::Task::kGenerate;
  }
}

std::optional<std::uint32_t> max_draft_tokens(const weir::v1::Speculation& speculation) {
  if (speculation.mode() == weir::v1::Speculation::OFF) return std::nullopt;
  return speculation.max_draft_tokens();
}

}  // namespace

std::vector<model::ModelOptions> model_options(const weir::v1::Config& config) {
  std::vector<model::ModelOptions> all;
  for (const auto& model : config.models()) {
    model::ModelOptions options;
    options.name = model.name();
    options.path = model.path();
    options.instances = model.instances();
    options.max_sequences = model.max_sequences();
    if (model.has_context_tokens()) options.context_tokens = model.context_tokens();
    if (model.has_kv_tokens()) options.kv_tokens = model.kv_tokens();
    options.park_bytes = model.park_bytes();
    options.prefix_reuse = model.prefix_reuse();
    options.max_draft_tokens = max_draft_tokens(model.speculation());
    options.max_queue = model.max_queue();
    if (model.queue().has_max_kv_ratio()) options.max_kv_ratio = model.queue().max_kv_ratio();
    if (model.has_threads()) options.threads = model.threads();
    options.preload = model.preload();
    options.trial = trial_mode(model);
    options.prefetch = prefetch_of(model);
    options.ready_residency = model.ready_residency();
    options.repack = model.repack();
    options.keep_alive = keep_alive(model, config.registry());
    options.queue = queue_options(model.queue(), config.admission());
    options.batch = batch_options(model);
    options.task = task_of(model);
    options.max_batch_tokens = model.batch().max_batch_tokens();
    options.instance_per_thread = !model.batch().has_instances();
    if (model.executor() == weir::v1::IDENTITY)
      options.identity = identity_options(model.identity());
    all.push_back(std::move(options));
  }
  return all;
}

Result<serve::ServeOptions> serve_options(const weir::v1::Serve& serve) {
  auto listen = Endpoint::parse(serve.http(), /*allow_port_zero=*/true);
  if (!listen) return std::move(listen).error().context("serve.http");
  serve::ServeOptions options;
  options.listen = *listen;
  options.io_threads = serve.io_threads();
  options.max_body_bytes = serve.max_body_bytes();
  options.max_connections = serve.max_connections();
  if (serve.default_timeout_ms() > 0)
    options.default_timeout = milliseconds(serve.default_timeout_ms());
  switch (serve.admin_api()) {
    case weir::v1::ANYONE:
      options.admin_api = serve::AdminApi::kAnyone;
      break;
    case weir::v1::NOBODY:
      options.admin_api = serve::AdminApi::kNobody;
      break;
    default:
      break;
  }
  return options;
}

namespace {

admit::RateRule rate_rule(const weir::v1::RateLimit& limit) {
  const auto given = [](bool has, double value) {
    return has ? std::optional(value) : std::nullopt;
  };
  admit::RateRule rule;
  rule.tenant = limit.tenant();
  rule.model = limit.model();
  if (limit.has_level()) rule.level = static_cast<std::int32_t>(limit.level());
  rule.requests_per_second = given(limit.has_requests_per_second(), limit.requests_per_second());
  rule.requests_burst = given(limit.has_requests_burst(), limit.requests_burst());
  rule.tokens_per_second = given(limit.has_tokens_per_second(), limit.tokens_per_second());
  rule.tokens_burst = given(limit.has_tokens_burst(), limit.tokens_burst());
  return rule;
}

/// Half of what this process may still take: the other half is for models and the kernel's buffers.
Result<std::uint64_t> memory_for_requests(const weir::v1::Admission& config) {
  if (config.has_memory_bytes()) return config.memory_bytes();
  auto left = admit::memory_left();
  if (!left) return std::move(left).error().context("admission.memory_bytes");
  constexpr std::uint64_t kLeast = 1ULL << 20U;
  constexpr std::uint64_t kMost = 1ULL << 40U;
  const std::uint64_t bytes = std::clamp(left->bytes / 2, kLeast, kMost);
  spdlog::info("admission memory_bytes={} source={}", bytes, left->source);
  return bytes;
}

}  // namespace

Result<admit::Admission::Options> admission_options(const weir::v1::Config& config) {
  const auto& given = config.admission();
  admit::Admission::Options options;
  auto memory = memory_for_requests(given);
  if (!memory) return std::move(memory).error();
  options.memory_bytes = *memory;
  options.max_requests = given.max_requests();
  options.max_memory_pressure = given.max_memory_pressure();
  for (const auto& tenant : given.tenants()) {
    auto& limit = options.tenants.emplace_back();
    limit.name = tenant.name();
    if (tenant.has_max_requests()) limit.max_requests = tenant.max_requests();
  }
  for (const auto& limit : given.rate_limits()) options.rate_rules.push_back(rate_rule(limit));
  for (const auto& model : config.models()) {
    auto& costs = options.models.emplace_back();
    costs.name = model.name();
    if (model.has_context_tokens()) costs.context_tokens = model.context_tokens();
  }
  if (const auto file = admit::pressure_file()) {
    options.read_pressure = [file = *file] { return admit::read_some_avg10(file); };
  }
  return options;
}

std::vector<admit::ModelCosts> model_costs(const model::Registry& models) {
  std::vector<admit::ModelCosts> all;
  for (auto& [name, kv] : models.kv_capacities()) {
    auto& costs = all.emplace_back();
    costs.name = std::move(name);
    if (kv.context_tokens > 0) costs.context_tokens = kv.context_tokens;
    costs.kv_bytes_per_token = kv.bytes_per_token;
    costs.kv_limit_bytes = kv.limit_bytes;
  }
  return all;
}

namespace {

weir_policy kernel_policy(weir::v1::Policy policy) {
  switch (policy) {
    case weir::v1::P2C:
      return WEIR_POLICY_P2C;
    case weir::v1::WEIGHTED_RANDOM:
      return WEIR_POLICY_WEIGHTED_RANDOM;
    case weir::v1::ROUND_ROBIN:
    case weir::v1::COMPOSITE:  // the control loop works the weights out (agent/balance)
      return WEIR_POLICY_ROUND_ROBIN;
    case weir::v1::LEAST_INFLIGHT:
      return WEIR_POLICY_LEAST_INFLIGHT;
    default:
      return WEIR_POLICY_PREQUAL;
  }
}

Result<std::vector<kernel::BackendSpec>> backend_specs(
    const google::protobuf::RepeatedPtrField<weir::v1::Backend>& backends, const Endpoint& local) {
  std::vector<kernel::BackendSpec> specs;
  for (const auto& backend : backends) {
    if (backend.local()) {
      specs.push_back({local, true});
      continue;
    }
    auto address = Endpoint::parse(backend.address());
    if (!address) return std::move(address).error();
    specs.push_back({*address, false});
  }
  return specs;
}

Result<kernel::ServiceSpec> service_spec(const weir::v1::Service& service, const Endpoint& local) {
  kernel::ServiceSpec spec;
  spec.name = service.name();
  auto address = Endpoint::parse(service.address());
  if (!address) return std::move(address).error();
  spec.address = *address;
  spec.policy = kernel_policy(service.policy());
  spec.refuse_when_empty = service.when_empty() == weir::v1::REFUSE;
  spec.end_idle_when_open = service.end_idle_when_open();
  auto backends = backend_specs(service.backends(), local);
  if (!backends) return std::move(backends).error();
  spec.backends = std::move(*backends);
  auto backups = backend_specs(service.backup_backends(), local);
  if (!backups) return std::move(backups).error();
  spec.backup_backends = std::move(*backups);
  return spec;
}

}  // namespace

Result<kernel::DataPlane::Options> kernel_options(const weir::v1::Config& config,
                                                  const Endpoint& local) {
  kernel::DataPlane::Options options;
  options.cgroup_path = config.kernel().cgroup();
  options.pin_root = config.kernel().pin_root();
  switch (config.kernel().request_clock()) {
    case weir::v1::TRACEPOINT:
      options.request_clock = WEIR_CLOCK_TRACEPOINT;
      break;
    case weir::v1::SKB:
      options.request_clock = WEIR_CLOCK_SKB;
      break;
    case weir::v1::NONE:
      options.request_clock = WEIR_CLOCK_NONE;
      break;
    default:
      break;
  }
  using std::chrono::milliseconds;
  options.breaker.open_after_failures = config.control().open_after_failures();
  options.breaker.open = milliseconds(config.control().open_ms());
  options.breaker.max_open = milliseconds(config.control().max_open_ms());
  for (const auto& service : config.services()) {
    auto spec = service_spec(service, local);
    if (!spec) return std::move(spec).error().context("service " + service.name());
    options.services.push_back(std::move(*spec));
  }
  return options;
}

}  // namespace weir
