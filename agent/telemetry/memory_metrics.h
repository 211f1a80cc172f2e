// SPDX-License-Identifier: Apache-2.0
//
// The families in /metrics about the memory of loaded models.
//
// Thread-safe: pure functions.
#pragma once

#include <span>

#include "agent/model/generation.h"
#include "agent/telemetry/prometheus_text.h"

namespace weir::telemetry {

/// From weir_model_part_bytes to weir_model_thin_loads_total, in the order of the catalogue. Models
/// without a file have no series in them.
void render_memory_metrics(PrometheusText& out, std::span<const model::ModelInfo> models);

}  // namespace weir::telemetry
