// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/file_metrics.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace weir::telemetry {
namespace {

TEST(FileMetrics, EveryNumberIsItsOwn) {
  model::VettingReading reading;
  const std::vector<std::pair<std::uint64_t*, std::string>> numbers = {
      {&reading.refused_by_check, "check_refusals_total"},
      {&reading.passed, "trials_total{outcome=\"passed\"}"},
      {&reading.refused, "trials_total{outcome=\"refused\"}"},
      {&reading.died, "trials_total{outcome=\"died\"}"},
      {&reading.cut, "trials_total{outcome=\"cut\"}"},
      {&reading.unavailable, "trials_total{outcome=\"unavailable\"}"},
      {&reading.remembered, "trials_total{outcome=\"remembered\"}"}};
  std::uint64_t value = 100;
  for (const auto& [field, series] : numbers) *field = ++value;
  PrometheusText out;
  render_file_metrics(out, reading);
  const std::string text = std::move(out).take();
  value = 100;
  for (const auto& [field, series] : numbers) {
    const std::string line = "\nweir_file_" + series + " " + std::to_string(++value) + "\n";
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
}

}  // namespace
}  // namespace weir::telemetry
