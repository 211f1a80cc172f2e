// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/control_loop.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <string_view>
#include <utility>

#include "agent/balance/composite.h"
#include "agent/balance/rif_limit.h"

namespace weir::balance {
namespace {

/// A share is logged again when it moved by more than this part of the one logged last.
constexpr double kLoggedChangeRatio = 0.1;

Error bad_option(std::string_view name, std::string_view limit) {
  return make_error(Code::kInvalidArgument,
                    fmt::format("ControlOptions::{} must be {}", name, limit));
}

std::optional<Error> check(const ControlOptions& options) {
  if (options.tick <= Duration::zero()) return bad_option("tick", "> 0");
  if (options.latency_tau <= Duration::zero()) return bad_option("latency_tau", "> 0");
  if (options.health_tick <= Duration::zero()) return bad_option("health_tick", "> 0");
  for (const auto& [key, weight] : options.base_weights) {
    if (!std::isfinite(weight) || weight <= 0) return bad_option("base_weights", "> 0");
  }
  return std::nullopt;
}

std::vector<double> configured(const std::vector<CompositeInput>& pool) {
  std::vector<double> weights;
  for (const auto& input : pool) weights.push_back(input.base_weight);
  return weights;
}

}  // namespace

kernel::BackendDecision decision_of(const BackendReport& backend) {
  kernel::BackendDecision decision{backend.index, backend.weight, std::nullopt};
  if (backend.ttfb_ms) {
    decision.latency = std::chrono::ceil<std::chrono::microseconds>(
        std::chrono::duration<double, std::milli>(*backend.ttfb_ms));
  }
  return decision;
}

Result<std::unique_ptr<ControlLoop>> ControlLoop::create(ControlOptions options,
                                                         kernel::MapReader& reader,
                                                         kernel::MapWriter& writer,
                                                         const Clock& clock) {
  if (auto error = check(options)) return std::move(*error);
  return std::unique_ptr<ControlLoop>(new ControlLoop(std::move(options), reader, writer, clock));
}

ControlLoop::ControlLoop(ControlOptions options, kernel::MapReader& reader,
                         kernel::MapWriter& writer, const Clock& clock)
    : options_(std::move(options)),
      reader_(reader),
      writer_(writer),
      clock_(clock),
      cpu_(options_.proc) {}

Status ControlLoop::health_tick() {
  auto snapshot = reader_.read_gauges();
  if (!snapshot) return std::move(snapshot).error().context("reading the gauges");
  return observe_health(*snapshot);
}

Status ControlLoop::observe_health(const kernel::Snapshot& snapshot) {
  const health::Changes changes = health_.observe(snapshot);
  for (const auto& change : changes.backends) spdlog::warn("{}", health::to_log_line(change));
  for (const auto& change : changes.pools) spdlog::warn("{}", health::to_log_line(change));
  end_idle_connections(changes.backends, snapshot.services);
  auto written = writer_.set_rif_limits(rif_limits(snapshot.backends));
  if (!written) return std::move(written).error().context("writing the limits of load");
  // Counting is no condition for steering.
  housekeeping_.update(writer_.housekeeping(clock_.now()));
  return {};
}

void ControlLoop::end_idle_connections(const std::vector<health::BackendChange>& changes,
                                       const std::vector<kernel::ServiceReading>& pools) {
  for (const auto& change : changes) {
    const bool wanted = std::any_of(pools.begin(), pools.end(), [&](const auto& pool) {
      return pool.pool == change.pool && pool.end_idle_when_open;
    });
    if (change.to != WEIR_BREAKER_OPEN || !wanted) continue;
    const std::string backend = change.backend.second.to_string();
    // A failure leaves the connections as they are without this option: no reason to stop the tick.
    if (const auto ended = writer_.end_idle_connections(change.index)) {
      spdlog::info("idle connections ended service={} backend={} connections={}",
                   change.backend.first, backend, *ended);
    } else {
      spdlog::warn("idle connections not ended service={} backend={} error=\"{}\"",
                   change.backend.first, backend, ended.error().message);
    }
  }
}

Status ControlLoop::tick() {
  auto snapshot = reader_.read();
  if (!snapshot) return std::move(snapshot).error().context("reading the maps");
  auto report = std::make_shared<ControlReport>();
  report->snapshot = std::move(*snapshot);

  if (auto observed = observe_health(report->snapshot); !observed) return observed;
  const TimePoint now = clock_.now();
  update_latencies(report->snapshot, now);
  report->host_cpu_percent = cpu_.sample_percent();

  std::map<std::uint32_t, std::vector<std::size_t>> pools;
  for (std::size_t i = 0; i < report->snapshot.backends.size(); ++i) {
    const auto& reading = report->snapshot.backends[i];
    if (reading.state != WEIR_BE_DRAINING) pools[reading.pool].push_back(i);
  }
  for (const auto& [pool, members] : pools) decide_pool(members, *report);
  for (const auto& service : report->snapshot.services) {
    if (health_.panic(service.name)) report->services_in_panic.push_back(service.name);
  }

  std::vector<kernel::BackendDecision> decisions;
  decisions.reserve(report->backends.size());
  for (const auto& backend : report->backends) decisions.push_back(decision_of(backend));
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
    entry->second.update(reading.ttfb(), reading.connect_failures, now);
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
    backend.ttfb_ms = latencies_.at(key).ms();
    backend.in_flight = reading.in_flight;

    CompositeInput input;
    input.base_weight = base_weight(key);
    input.ttfb_ms = backend.ttfb_ms;
    if (reading.is_local) input.cpu_percent = report.host_cpu_percent;
    // A request that waits is felt even if the connection count lost sight of it.
    input.active = std::max(reading.in_flight, reading.waiting);
    inputs.push_back(input);
    report.backends.push_back(std::move(backend));
  }

  const bool composite = options_.composite.contains(report.backends[first].service);
  const std::vector<double> weights = composite ? composite_weights(inputs) : configured(inputs);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    BackendReport& backend = report.backends[first + i];
    backend.weight = weights[i];
    backend.share = weights[i] / sum;
  }
}

double ControlLoop::base_weight(const health::BackendKey& key) const {
  const auto base = options_.base_weights.find(key);
  return base == options_.base_weights.end() ? 1 : base->second;
}

void ControlLoop::log_weights(const ControlReport& report) {
  std::map<health::BackendKey, double> logged;
  for (const auto& backend : report.backends) {
    if (!options_.composite.contains(backend.service)) continue;
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
  Complaint weights("control");
  Complaint health("health");
  Duration since_tick{};
  while (true) {
    const Duration wait = std::min(options_.health_tick, options_.tick - since_tick);
    std::unique_lock lock(mutex);
    wake.wait_for(lock, stop, wait, [] { return false; });
    if (stop.stop_requested()) return;
    since_tick += wait;
    if (since_tick < options_.tick) {
      health.update(health_tick());
    } else {
      weights.update(tick());
      since_tick = Duration::zero();
    }
  }
}

std::shared_ptr<const ControlReport> ControlLoop::latest() const {
  const std::lock_guard lock(mutex_);
  return latest_;
}

}  // namespace weir::balance
