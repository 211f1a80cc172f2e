// SPDX-License-Identifier: Apache-2.0
//
// The families of the worker pool (weir_worker*).
//
// Thread-safe: pure functions.
#pragma once

#include "agent/schedule/worker_pool.h"
#include "agent/telemetry/prometheus_text.h"

namespace weir::telemetry {

/// In the order of the catalogue.
void render_worker_metrics(PrometheusText& out, const schedule::WorkerPoolReading& reading);

}  // namespace weir::telemetry
