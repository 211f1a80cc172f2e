// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/sla_metrics.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace weir::telemetry {
namespace {

TEST(SlaMetrics, EveryNumberIsItsOwn) {
  upstream::SlaReading reading;
  upstream::SlaRouteReading route;
  route.route = "/infer";
  const std::vector<std::pair<std::uint64_t*, std::string>> numbers = {
      {&route.requests, "requests_total{route=\"/infer\"}"},
      {&route.retries, "retries_total{route=\"/infer\"}"},
      {&route.over_budget, "over_budget_total{route=\"/infer\"}"},
      {&route.adaptive_attempts, "adaptive_attempts_total{route=\"/infer\"}"},
      {&route.adaptive_wins, "adaptive_wins_total{route=\"/infer\"}"},
      {&route.fast_fails, "fast_fails_total{route=\"/infer\"}"},
      {&route.backup_attempts, "backup_attempts_total{route=\"/infer\"}"},
      {&route.probes, "probes_total{route=\"/infer\"}"},
      {&route.degraded_cached, "degraded_total{route=\"/infer\",from=\"cached\"}"},
      {&route.degraded_default, "degraded_total{route=\"/infer\",from=\"default\"}"},
      {&route.cache_entries, "cache_entries{route=\"/infer\"}"},
      {&route.cache_bytes, "cache_bytes{route=\"/infer\"}"}};
  std::uint64_t value = 100;
  for (const auto& [field, series] : numbers) *field = ++value;
  reading.routes = {{.route = "*"}, route};
  reading.health = {{"tiny", 0.75}};
  PrometheusText out;
  render_sla_metrics(out, reading);
  const std::string text = std::move(out).take();
  value = 100;
  for (const auto& [field, series] : numbers) {
    const std::string line = "\nweir_sla_" + series + " " + std::to_string(++value) + "\n";
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
  EXPECT_NE(text.find("\nweir_sla_requests_total{route=\"*\"} 0\n"), std::string::npos);
  EXPECT_NE(text.find("\nweir_sla_health_ratio{model=\"tiny\"} 0.75\n"), std::string::npos);
}

}  // namespace
}  // namespace weir::telemetry
