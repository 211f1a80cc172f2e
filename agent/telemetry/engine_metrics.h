// SPDX-License-Identifier: Apache-2.0
//
// The families in /metrics about KV cells, parked requests, prompts that begin alike and
// guessed tokens.
//
// Thread-safe: pure functions.
#pragma once

#include <span>

#include "agent/model/generation.h"
#include "agent/telemetry/prometheus_text.h"

namespace weir::telemetry {

/// From weir_model_kv_cells to weir_model_draft_hits_total, in the order of the catalogue.
/// Models of one-shot work have no series in them.
void render_engine_metrics(PrometheusText& out, std::span<const model::ModelInfo> models);

}  // namespace weir::telemetry
