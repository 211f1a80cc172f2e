// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/worker_metrics.h"

#include <cstdint>
#include <string>

#include "agent/telemetry/catalogue.h"

namespace weir::telemetry {

void render_worker_metrics(PrometheusText& out, const schedule::WorkerPoolReading& reading) {
  using schedule::WorkerReading;
  out.family(kCatalogue[kWorkers]);
  out.sample({{"state", "live"}}, std::uint64_t{reading.live});
  out.sample({{"state", "parked"}}, std::uint64_t{reading.parked});
  out.sample({{"state", "searching"}}, std::uint64_t{reading.searching});
  const auto whole = [&](Metric metric, std::uint64_t value) {
    out.family(kCatalogue[metric]);
    out.sample({}, value);
  };
  whole(kWorkersQueued, reading.queued);
  whole(kWorkersInjected, reading.injected);
  out.family(kCatalogue[kWorkersRefused]);
  out.sample({{"reason", "full"}}, reading.refused_full);
  out.sample({{"reason", "stopped"}}, reading.refused_stopped);
  whole(kWorkersGrown, reading.grown);
  whole(kWorkersShrunk, reading.shrunk);
  const auto each = [&](Metric metric, std::uint64_t WorkerReading::*field) {
    out.family(kCatalogue[metric]);
    for (std::size_t i = 0; i < reading.workers.size(); ++i) {
      out.sample({{"worker", std::to_string(i)}}, reading.workers[i].*field);
    }
  };
  each(kWorkerTasks, &WorkerReading::executed);
  each(kWorkerSlotTasks, &WorkerReading::from_slot);
  each(kWorkerSteals, &WorkerReading::steals);
  each(kWorkerStolenTasks, &WorkerReading::stolen_tasks);
  each(kWorkerOverflows, &WorkerReading::overflows);
  each(kWorkerParks, &WorkerReading::parks);
}

}  // namespace weir::telemetry
