// SPDX-License-Identifier: Apache-2.0
#include "agent/health/tracker.h"

#include <fmt/format.h>

namespace weir::health {

BackendKey key_of(const kernel::BackendReading& reading) {
  return {reading.service, reading.address};
}

std::string to_log_line(const BackendChange& change) {
  std::string line = fmt::format(
      "breaker service={} backend={} from={} to={} consecutive_failures={}", change.backend.first,
      change.backend.second.to_string(), to_string(change.breaker.from),
      to_string(change.breaker.to), change.breaker.consecutive_failures);
  if (change.breaker.to == BreakerState::kOpen) {
    line += fmt::format(
        " open_ms={}",
        std::chrono::duration_cast<std::chrono::milliseconds>(change.breaker.open_for).count());
  }
  return line;
}

std::string to_log_line(const PoolChange& change) {
  return fmt::format("panic service={} on={} usable={} backends={}", change.service, change.panic,
                     change.usable, change.total);
}

Tracker::Tracker(TrackerOptions options, Uniform uniform)
    : options_(std::move(options)), uniform_(std::move(uniform)) {}

Changes Tracker::observe(const std::vector<kernel::BackendReading>& readings, TimePoint now) {
  Changes changes;
  std::set<BackendKey> present;
  for (const auto& reading : readings) {
    if (reading.state == WEIR_BE_DRAINING) continue;
    const BackendKey key = key_of(reading);
    present.insert(key);
    const ConnectCounts counts{reading.consecutive_failures, reading.established,
                               reading.connect_failures};
    Breaker& breaker = breakers_.try_emplace(key, options_.breaker).first->second;
    if (auto change = breaker.observe(counts, now, uniform_)) {
      changes.backends.push_back({key, *change});
    }
  }
  std::erase_if(breakers_, [&](const auto& entry) { return !present.contains(entry.first); });
  observe_pools(changes);
  return changes;
}

void Tracker::observe_pools(Changes& changes) {
  struct Pool {
    std::size_t usable = 0;
    std::size_t total = 0;
  };
  std::map<std::string, Pool> pools;
  for (const auto& [key, breaker] : breakers_) {
    Pool& pool = pools[key.first];
    ++pool.total;
    if (breaker.state() != BreakerState::kOpen) ++pool.usable;
  }
  for (const auto& [service, pool] : pools) {
    const bool panic = 2 * pool.usable < pool.total && !options_.never_panic.contains(service);
    if (panic == panic_.contains(service)) continue;
    changes.pools.push_back({service, panic, pool.usable, pool.total});
    if (panic) {
      panic_.insert(service);
    } else {
      panic_.erase(service);
    }
  }
  std::erase_if(panic_, [&](const std::string& service) { return !pools.contains(service); });
}

BreakerState Tracker::state(const BackendKey& backend) const {
  return breakers_.at(backend).state();
}

}  // namespace weir::health
