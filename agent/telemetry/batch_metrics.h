// SPDX-License-Identifier: Apache-2.0
//
// The families of one-shot work in /metrics: what batches there were, and what was learned of them.
//
// Thread-safe: pure functions.
#pragma once

#include <span>

#include "agent/model/generation.h"
#include "agent/telemetry/prometheus_text.h"

namespace weir::telemetry {

/// All weir_model_batch_* families, in the order of the catalogue. Models that are not executed in
/// batches have no series in them.
void render_batch_metrics(PrometheusText& out, std::span<const model::ModelInfo> models);

}  // namespace weir::telemetry
