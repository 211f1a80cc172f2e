// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/worker_metrics.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace weir::telemetry {
namespace {

TEST(WorkerMetrics, EveryNumberIsItsOwn) {
  schedule::WorkerPoolReading reading;
  reading.workers.resize(2);
  schedule::WorkerReading& worker = reading.workers[1];
  const std::vector<std::pair<std::uint64_t*, std::string>> numbers = {
      {&reading.injected, "workers_injected_tasks_total"},
      {&reading.refused_full, "workers_refused_tasks_total{reason=\"full\"}"},
      {&reading.refused_stopped, "workers_refused_tasks_total{reason=\"stopped\"}"},
      {&reading.grown, "workers_grown_total"},
      {&reading.shrunk, "workers_shrunk_total"},
      {&worker.executed, "worker_tasks_total{worker=\"1\"}"},
      {&worker.from_slot, "worker_slot_tasks_total{worker=\"1\"}"},
      {&worker.steals, "worker_steals_total{worker=\"1\"}"},
      {&worker.stolen_tasks, "worker_stolen_tasks_total{worker=\"1\"}"},
      {&worker.overflows, "worker_overflows_total{worker=\"1\"}"},
      {&worker.parks, "worker_parks_total{worker=\"1\"}"}};
  std::uint64_t value = 100;
  for (const auto& [field, series] : numbers) *field = ++value;
  reading.live = 11;
  reading.parked = 12;
  reading.searching = 13;
  reading.queued = 14;
  PrometheusText out;
  render_worker_metrics(out, reading);
  const std::string text = std::move(out).take();
  value = 100;
  for (const auto& [field, series] : numbers) {
    const std::string line = "\nweir_" + series + " " + std::to_string(++value) + "\n";
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
  for (const std::string line : {"workers{state=\"live\"} 11", "workers{state=\"parked\"} 12",
                                 "workers{state=\"searching\"} 13", "workers_queued_tasks 14",
                                 "worker_tasks_total{worker=\"0\"} 0"}) {
    EXPECT_NE(text.find("\nweir_" + line + "\n"), std::string::npos) << line << text;
  }
}

}  // namespace
}  // namespace weir::telemetry
