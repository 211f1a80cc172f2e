// SPDX-License-Identifier: Apache-2.0
//
// The families of the models in /metrics.
//
// Thread-safe: pure functions.
#pragma once

#include <span>

#include "agent/model/generation.h"
#include "agent/telemetry/prometheus_text.h"

namespace weir::telemetry {

/// All weir_model_* families, in the order of the catalogue.
void render_model_metrics(PrometheusText& out, std::span<const model::ModelInfo> models);

}  // namespace weir::telemetry
