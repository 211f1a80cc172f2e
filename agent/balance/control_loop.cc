// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/control_loop.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "agent/balance/composite.h"

namespace weir::balance {
namespace {

/// What a half-open backend gets of the weight that it would have: enough to be tried.
constexpr double kHalfOpenRatio = 0.1;
/// A share is logged again when it moved by more than this part of the one logged last.
constexpr double kLoggedChangeRatio = 0.1;

Error bad_option(std::string_view name, std::string_view limit) {
  return make_error(Code::kInvalidArgument,
                    fmt::format("ControlOptions::{} must be {}", name, limit));
}

std::optional<Error> check(const ControlOptions& options) {
  const auto& breaker = options.health.breaker;
  if (options.tick <= Duration::zero()) return bad_option("tick", "> 0");
  if (options.latency_tau <= Duration::zero()) return bad_option("latency_tau", "> 0");
  if (breaker.open_after_failures < 1) {
    return bad_option("health.breaker.open_after_failures", ">= 1");
  }
  if (breaker.open <= Duration::zero()) return bad_option("health.breaker.open", "> 0");
  if (breaker.max_open < breaker.open) return bad_option("health.breaker.max_open", ">= open");
  for (const auto& [key, weight] : options.base_weights) {
    if (!std::isfinite(weight) || weight <= 0) return bad_option("base_weights", "> 0");
  }
  return std::nullopt;
}

/// What a backend may take, relative to a healthy one.
double health_ratio(health::BreakerState breaker, bool panic) {
  if (panic || breaker == health::BreakerState::kClosed) return 1;
  return breaker == health::BreakerState::kHalfOpen ? kHalfOpenRatio : 0;
}

}  // namespace

Result<std::unique_ptr<ControlLoop>> ControlLoop::create(ControlOptions options,
                                                         kernel::MapReader& reader,
                                                         kernel::MapWriter& writer,
                                                         const Clock& clock,
                                                         health::Uniform uniform) {
  if (auto error = check(options)) return std::move(*error);
  return std::unique_ptr<ControlLoop>(
      new ControlLoop(std::move(options), reader, writer, clock, std::move(uniform)));
}

ControlLoop::ControlLoop(ControlOptions options, kernel::MapReader& reader,
                         kernel::MapWriter& writer, const Clock& clock, health::Uniform uniform)
    : options_(std::move(options)),
      reader_(reader),
      writer_(writer),
      clock_(clock),
      health_(options_.health, std::move(uniform)),
      cpu_(options_.proc) {}

Status ControlLoop::tick() {
  auto snapshot = reader_.read();
  if (!snapshot) return std::move(snapshot).error().context("reading the maps");
  auto report = std::make_shared<ControlReport>();
  report->snapshot = std::move(*snapshot);

  const TimePoint now = clock_.now();
  const health::Changes changes = health_.observe(report->snapshot.backends, now);
  for (const auto& change : changes.backends) spdlog::warn("{}", health::to_log_line(change));
  for (const auto& change : changes.pools) spdlog::warn("{}", health::to_log_line(change));

  update_latencies(report->snapshot, now);
  report->host_cpu_percent = cpu_.sample_percent();

  std::map<std::string, std::vector<std::size_t>> pools;
  for (std::size_t i = 0; i < report->snapshot.backends.size(); ++i) {
    const auto& reading = report->snapshot.backends[i];
    if (reading.state != WEIR_BE_DRAINING) pools[reading.service].push_back(i);
  }
  for (const auto& [service, members] : pools) {
    if (health_.panic(service)) report->services_in_panic.push_back(service);
    decide_pool(members, *report);
  }

  std::vector<kernel::BackendDecision> decisions;
  for (const auto& backend : report->backends) {
    decisions.push_back({backend.index, backend.state, backend.weight});
  }
  auto published = writer_.publish(decisions);
  if (!published) return std::move(published).error().context("publishing weights");

  log_weights(*report);
  const std::lock_guard lock(mutex_);
  latest_ = std::move(report);
  return {};
}

void ControlLoop::update_latencies(const kernel::Snapshot& snapshot, TimePoint now) {
  std::map<health::BackendKey, LatencyAverage> present;
  for (const auto& reading : snapshot.backends) {
    auto known = latencies_.extract(health::key_of(reading));
    const auto [entry, added] =
        known ? std::pair(present.insert(std::move(known)).position, false)
              : present.try_emplace(health::key_of(reading), options_.latency_tau);
    entry->second.update(reading.ttfb, now);
  }
  latencies_ = std::move(present);
}

void ControlLoop::decide_pool(const std::vector<std::size_t>& members,
                              ControlReport& report) const {
  const std::size_t first = report.backends.size();
  std::vector<CompositeInput> inputs;
  for (const std::size_t member : members) {
    const auto& reading = report.snapshot.backends[member];
    const health::BackendKey key = health::key_of(reading);
    BackendReport backend;
    backend.index = reading.index;
    backend.service = reading.service;
    backend.address = reading.address;
    backend.is_local = reading.is_local;
    backend.breaker = health_.state(key);
    backend.ttfb_ms = latencies_.at(key).ms();
    backend.in_flight = reading.in_flight;

    CompositeInput input;
    if (const auto base = options_.base_weights.find(key); base != options_.base_weights.end()) {
      input.base_weight = base->second;
    }
    input.ttfb_ms = backend.ttfb_ms;
    if (reading.is_local) input.cpu_percent = report.host_cpu_percent;
    // A request that waits is felt even if the connection count lost sight of it.
    input.active = std::max(reading.in_flight, reading.waiting);
    inputs.push_back(input);
    report.backends.push_back(std::move(backend));
  }

  const std::vector<double> weights = composite_weights(inputs);
  const bool panic = health_.panic(report.backends[first].service);
  double sum = 0;
  std::size_t in_use = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    BackendReport& backend = report.backends[first + i];
    backend.weight = weights[i] * health_ratio(backend.breaker, panic);
    backend.state = backend.weight > 0 ? WEIR_BE_ACTIVE : WEIR_BE_OPEN;
    sum += backend.weight;
    if (backend.weight > 0) ++in_use;
  }
  if (in_use == 0) return;
  for (std::size_t i = first; i < report.backends.size(); ++i) {
    report.backends[i].share = report.backends[i].weight / sum;
    report.backends[i].weight = report.backends[i].share * static_cast<double>(in_use);
  }
}

void ControlLoop::log_weights(const ControlReport& report) {
  std::map<health::BackendKey, double> logged;
  for (const auto& backend : report.backends) {
    const health::BackendKey key(backend.service, backend.address);
    const auto before = logged_shares_.find(key);
    if (before != logged_shares_.end() &&
        std::abs(backend.share - before->second) <= kLoggedChangeRatio * before->second) {
      logged.insert(*before);
      continue;
    }
    logged[key] = backend.share;
    spdlog::info("weight service={} backend={} weight={:.3g} share={:.3g} ttfb_ms={} in_flight={}",
                 backend.service, backend.address.to_string(), backend.weight, backend.share,
                 backend.ttfb_ms ? fmt::format("{:.1f}", *backend.ttfb_ms) : "unknown",
                 backend.in_flight);
  }
  logged_shares_ = std::move(logged);
}

void ControlLoop::run(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::string failing;
  while (true) {
    std::unique_lock lock(mutex);
    wake.wait_for(lock, stop, options_.tick, [] { return false; });
    if (stop.stop_requested()) return;
    const Status status = tick();
    const std::string problem = status ? "" : status.error().message;
    if (problem != failing) {
      if (status) {
        spdlog::info("control recovered");
      } else {
        spdlog::error("control failed error=\"{}\"; the kernel keeps the last weights", problem);
      }
      failing = problem;
    }
  }
}

std::shared_ptr<const ControlReport> ControlLoop::latest() const {
  const std::lock_guard lock(mutex_);
  return latest_;
}

}  // namespace weir::balance
