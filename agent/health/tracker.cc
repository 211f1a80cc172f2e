// SPDX-License-Identifier: Apache-2.0
#include "agent/health/tracker.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/kernel/names.h"

namespace weir::health {
namespace {

using kernel::ServiceReading;

/// The pool that stands in when most of `service` is open; null when it has none, or when that one
/// has no backend to offer either.
const ServiceReading* helper_of(const ServiceReading& service,
                                const std::vector<ServiceReading>& services) {
  if (!service.backup) return nullptr;
  const auto backup = std::find_if(
      services.begin(), services.end(),
      [&](const ServiceReading& candidate) { return candidate.pool == *service.backup; });
  return backup != services.end() && backup->open < backup->members ? &*backup : nullptr;
}

}  // namespace

bool in_panic(const ServiceReading& service, const std::vector<ServiceReading>& services) {
  return service.panic() && helper_of(service, services) == nullptr;
}

BackendKey key_of(const kernel::BackendReading& reading) {
  return {reading.service, reading.address};
}

std::string to_log_line(const BackendChange& change) {
  std::string line = fmt::format(
      "breaker service={} backend={} from={} to={} level={} consecutive_failures={}",
      change.backend.first, change.backend.second.to_string(), kernel::to_string(change.from),
      kernel::to_string(change.to), change.level, change.consecutive_failures);
  if (change.open_for) {
    line += fmt::format(
        " open_ms={}",
        std::chrono::duration_cast<std::chrono::milliseconds>(*change.open_for).count());
  }
  return line;
}

std::string to_log_line(const PoolChange& change) {
  return fmt::format("panic service={} on={} open={} backends={}", change.service, change.panic,
                     change.open, change.members);
}

Changes Tracker::observe(const kernel::Snapshot& snapshot) {
  Changes changes;
  observe_backends(snapshot, changes);
  observe_pools(snapshot, changes);
  return changes;
}

void Tracker::observe_backends(const kernel::Snapshot& snapshot, Changes& changes) {
  std::unordered_map<std::uint32_t, Seen> present;
  present.reserve(snapshot.backends.size());
  for (const auto& reading : snapshot.backends) {
    if (reading.state != WEIR_BE_ACTIVE) continue;
    const Seen now{reading.pool, reading.address, reading.breaker.state, reading.breaker_opens};
    Seen before{reading.pool, reading.address, WEIR_BREAKER_CLOSED, reading.breaker_opens};
    if (const auto known = seen_.find(reading.index); known != seen_.end() &&
                                                      known->second.pool == reading.pool &&
                                                      known->second.address == reading.address) {
      before = known->second;
    }
    // An open breaker that was tried and opened again meanwhile looks the same but for the count.
    const bool opened_again = now.state == WEIR_BREAKER_OPEN && now.opens != before.opens;
    if (now.state != before.state || opened_again) {
      BackendChange change{key_of(reading),
                           reading.index,
                           reading.pool,
                           before.state,
                           now.state,
                           reading.breaker.level,
                           reading.consecutive_failures,
                           {}};
      if (now.state == WEIR_BREAKER_OPEN) {
        change.open_for = std::max(reading.breaker.until - snapshot.taken, Duration::zero());
      }
      changes.backends.push_back(std::move(change));
    }
    present.emplace(reading.index, now);
  }
  seen_ = std::move(present);
}

void Tracker::observe_pools(const kernel::Snapshot& snapshot, Changes& changes) {
  std::set<std::string> panicking;
  for (const auto& service : snapshot.services) {
    if (service.is_backup()) continue;
    const bool panic = in_panic(service, snapshot.services);
    if (panic) panicking.insert(service.name);
    if (panic == panic_.contains(service.name)) continue;
    changes.pools.push_back({service.name, panic, service.open, service.members});
  }
  panic_ = std::move(panicking);
}

}  // namespace weir::health
