// SPDX-License-Identifier: Apache-2.0
//
// What the policies did, for /metrics: which rule fired how often.
//
// Thread-safe: values.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace weir::upstream {

/// Of one route's policy; cumulative, but for the cache.
struct SlaRouteReading {
  std::string route;  ///< "*": the policy of all other routes
  std::uint64_t requests = 0;
  std::uint64_t retries = 0;
  std::uint64_t over_budget = 0;  ///< retries and adaptive attempts that the budget did not allow
  std::uint64_t adaptive_attempts = 0;
  std::uint64_t adaptive_wins = 0;  ///< of them, those that answered first
  std::uint64_t fast_fails = 0;     ///< attempts not made, for want of health
  std::uint64_t backup_attempts = 0;
  std::uint64_t probes = 0;
  std::uint64_t degraded_cached = 0;
  std::uint64_t degraded_default = 0;
  std::uint64_t cache_entries = 0;
  std::uint64_t cache_bytes = 0;
};

struct SlaReading {
  std::vector<SlaRouteReading> routes;
  /// Share of attempts that succeeded lately, by model; unknown ones are left out.
  std::vector<std::pair<std::string, double>> health;
};

}  // namespace weir::upstream
