// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/sla_metrics.h"

#include "agent/telemetry/catalogue.h"

namespace weir::telemetry {

void render_sla_metrics(PrometheusText& out, const upstream::SlaReading& reading) {
  using Route = upstream::SlaRouteReading;
  const auto each = [&](Metric metric, std::uint64_t Route::*field) {
    out.family(kCatalogue[metric]);
    for (const Route& route : reading.routes) out.sample({{"route", route.route}}, route.*field);
  };
  each(kSlaRequests, &Route::requests);
  each(kSlaRetries, &Route::retries);
  each(kSlaAdaptiveAttempts, &Route::adaptive_attempts);
  each(kSlaAdaptiveWins, &Route::adaptive_wins);
  each(kSlaOverBudget, &Route::over_budget);
  each(kSlaFastFails, &Route::fast_fails);
  each(kSlaBackupAttempts, &Route::backup_attempts);
  each(kSlaProbes, &Route::probes);
  out.family(kCatalogue[kSlaDegraded]);
  for (const Route& route : reading.routes) {
    out.sample({{"route", route.route}, {"from", "cached"}}, route.degraded_cached);
    out.sample({{"route", route.route}, {"from", "default"}}, route.degraded_default);
  }
  each(kSlaCacheEntries, &Route::cache_entries);
  each(kSlaCacheBytes, &Route::cache_bytes);
  out.family(kCatalogue[kSlaHealth]);
  for (const auto& [model, share] : reading.health) out.sample({{"model", model}}, share);
}

}  // namespace weir::telemetry
