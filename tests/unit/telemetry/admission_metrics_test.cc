// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/admission_metrics.h"

#include <gtest/gtest.h>

namespace weir::telemetry {
namespace {

TEST(AdmissionMetrics, EveryNumberIsItsOwn) {
  using schedule::RefusalReason;
  admit::AdmissionReading reading;
  reading.requests = 1;
  reading.max_requests = 2;
  reading.reserved_bytes = 3;
  reading.memory_bytes = 4;
  reading.memory_pressure = 12.5;
  reading.rate_buckets = 5;
  reading.rate_spills = 6;
  reading.refusals[0][static_cast<std::size_t>(RefusalReason::kRateLimited)] = 7;
  reading.refusals[1][static_cast<std::size_t>(RefusalReason::kMemory)] = 8;
  reading.tenants = {{"acme", 9, 10, 11}};
  reading.kv_caches = {{"tiny", 12, 13, 14}};
  PrometheusText out;
  render_admission_metrics(out, reading);
  const std::string text = std::move(out).take();
  for (const char* const line :
       {"weir_admission_requests 1", "weir_admission_requests_limit 2",
        "weir_admission_reserved_bytes 3", "weir_admission_memory_limit_bytes 4",
        "weir_admission_memory_pressure_ratio 0.125", "weir_admission_rate_buckets 5",
        "weir_admission_rate_spills_total 6",
        "weir_admission_refusals_total{stage=\"head\",reason=\"rate_limited\"} 7",
        "weir_admission_refusals_total{stage=\"body\",reason=\"memory\"} 8",
        "weir_admission_kv_reserved_bytes{model=\"tiny\"} 12",
        "weir_admission_kv_limit_bytes{model=\"tiny\"} 13",
        "weir_admission_kv_refusals_total{model=\"tiny\"} 14",
        "weir_tenant_requests{tenant=\"acme\"} 9",
        "weir_tenant_requests_admitted_total{tenant=\"acme\"} 10",
        "weir_tenant_requests_refused_total{tenant=\"acme\"} 11"}) {
    EXPECT_NE(text.find("\n" + std::string(line) + "\n"), std::string::npos) << line;
  }
}

}  // namespace
}  // namespace weir::telemetry
