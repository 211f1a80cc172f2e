// SPDX-License-Identifier: Apache-2.0
//
// The families of model files (weir_file_*).
//
// Thread-safe: pure functions.
#pragma once

#include "agent/model/vetting_reading.h"
#include "agent/telemetry/prometheus_text.h"

namespace weir::telemetry {

/// In the order of the catalogue.
void render_file_metrics(PrometheusText& out, const model::VettingReading& reading);

}  // namespace weir::telemetry
