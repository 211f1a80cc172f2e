// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/admission_metrics.h"

#include "agent/telemetry/catalogue.h"

namespace weir::telemetry {

void render_admission_metrics(PrometheusText& out, const admit::AdmissionReading& admission) {
  const auto one = [&](Metric metric, std::uint64_t value) {
    out.family(kCatalogue[metric]);
    out.sample({}, value);
  };
  one(kAdmissionRequests, admission.requests);
  one(kAdmissionRequestsLimit, admission.max_requests);
  one(kAdmissionReservedBytes, admission.reserved_bytes);
  one(kAdmissionMemoryLimit, admission.memory_bytes);
  out.family(kCatalogue[kAdmissionMemoryPressure]);
  if (admission.memory_pressure.has_value()) out.sample({}, *admission.memory_pressure / 100);
  out.family(kCatalogue[kAdmissionRefusals]);
  for (std::size_t stage = 0; stage < admit::kStages; ++stage) {
    for (std::size_t reason = 0; reason < schedule::kRefusalReasons; ++reason) {
      const std::uint64_t count = admission.refusals[stage][reason];
      if (count == 0) continue;  // most reasons are of other stages
      out.sample({{"stage", to_string(static_cast<admit::Stage>(stage))},
                  {"reason", to_string(static_cast<schedule::RefusalReason>(reason))}},
                 count);
    }
  }
  one(kAdmissionRateBuckets, admission.rate_buckets);
  one(kAdmissionRateSpills, admission.rate_spills);
  const auto tenants = [&](Metric metric, auto field) {
    out.family(kCatalogue[metric]);
    for (const auto& tenant : admission.tenants) {
      out.sample({{"tenant", tenant.name}}, tenant.*field);
    }
  };
  const auto kv_caches = [&](Metric metric, auto field) {
    out.family(kCatalogue[metric]);
    for (const auto& cache : admission.kv_caches) {
      out.sample({{"model", cache.model}}, cache.*field);
    }
  };
  using KvCache = admit::AdmissionReading::KvCache;
  kv_caches(kAdmissionKvReserved, &KvCache::reserved_bytes);
  out.family(kCatalogue[kAdmissionKvLimit]);
  for (const auto& cache : admission.kv_caches) {
    if (cache.limit_bytes) out.sample({{"model", cache.model}}, *cache.limit_bytes);
  }
  kv_caches(kAdmissionKvRefusals, &KvCache::refused);
  using Tenant = admit::AdmissionReading::Tenant;
  tenants(kTenantRequests, &Tenant::requests);
  tenants(kTenantAdmitted, &Tenant::admitted);
  tenants(kTenantRefused, &Tenant::refused);
}

}  // namespace weir::telemetry
