// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/route_policy.h"

#include <utility>
#include <vector>

namespace weir::upstream {

std::optional<SlaContext::WaitId> SlaContext::wait(std::shared_ptr<Waiter> waiter, TimePoint at) {
  const std::lock_guard lock(mutex_);
  if (stopping()) return std::nullopt;
  const WaitId id = next_wait_++;
  // Under the lock, so that the timer finds the entry however soon it fires.
  const Timers::Id timer = timers.arm(at, [weak = weak_from_this(), id] {
    const auto self = weak.lock();
    if (!self) return;
    if (const auto due = self->take(id)) due->resume();
  });
  waiting_.emplace(id, Waiting{std::move(waiter), timer});
  return id;
}

void SlaContext::forget(WaitId id) {
  std::shared_ptr<Waiter> waiter;  // let go of after the lock
  std::optional<Timers::Id> timer;
  {
    const std::lock_guard lock(mutex_);
    const auto found = waiting_.find(id);
    if (found == waiting_.end()) return;
    waiter = std::move(found->second.waiter);
    timer = found->second.timer;
    waiting_.erase(found);
  }
  timers.cancel(*timer);
}

std::shared_ptr<Waiter> SlaContext::take(WaitId id) {
  const std::lock_guard lock(mutex_);
  const auto found = waiting_.find(id);
  if (found == waiting_.end()) return nullptr;
  std::shared_ptr<Waiter> waiter = std::move(found->second.waiter);
  waiting_.erase(found);
  return waiter;
}

bool SlaContext::enter() {
  const std::lock_guard lock(mutex_);
  if (stopping()) return false;
  ++inside_;
  return true;
}

void SlaContext::leave() {
  const std::lock_guard lock(mutex_);
  if (--inside_ == 0) left_.notify_all();
}

void SlaContext::stop() {
  std::map<WaitId, Waiting> abandoned;
  {
    std::unique_lock lock(mutex_);
    stopping_.store(true, std::memory_order_release);
    abandoned.swap(waiting_);
    left_.wait(lock, [this] { return inside_ == 0; });
  }
  for (const auto& [id, waiting] : abandoned) {
    timers.cancel(waiting.timer);
    waiting.waiter->abandon();
  }
}

SlaRouteReading RoutePolicy::reading() const {
  const auto value = [](const Counter& counter) { return counter.load(std::memory_order_relaxed); };
  SlaRouteReading reading;
  reading.route = options.route.empty() ? "*" : options.route;
  reading.requests = value(requests);
  reading.retries = value(retries);
  reading.over_budget = value(over_budget);
  reading.adaptive_attempts = value(adaptive_attempts);
  reading.adaptive_wins = value(adaptive_wins);
  reading.fast_fails = value(fast_fails);
  reading.backup_attempts = value(backup_attempts);
  reading.probes = value(probes);
  reading.degraded_cached = value(degraded_cached);
  reading.degraded_default = value(degraded_default);
  const ResponseCache::Size size = cache.size();
  reading.cache_entries = size.entries;
  reading.cache_bytes = size.bytes;
  return reading;
}

std::string_view backup_of(std::string_view model, const SlaOptions& options) {
  if (!options.fast_fail || options.fast_fail->backup_model == model) return {};
  return options.fast_fail->backup_model;
}

std::optional<Target> choose_target(std::string_view model, RoutePolicy& policy,
                                    HealthBoard& health) {
  if (!policy.options.fast_fail) return Target{std::string(model), false};
  const double min_health = policy.options.fast_fail->min_health;
  const auto may_ask = [&](std::string_view name) {
    ModelHealth& of = health.of(name);
    if (!of.below(min_health)) return true;
    if (!of.take_probe()) return false;
    count(policy.probes);
    return true;
  };
  if (may_ask(model)) return Target{std::string(model), false};
  const std::string_view backup = backup_of(model, policy.options);
  if (!backup.empty() && may_ask(backup)) {
    count(policy.backup_attempts);
    return Target{std::string(backup), true};
  }
  count(policy.fast_fails);
  return std::nullopt;
}

}  // namespace weir::upstream
