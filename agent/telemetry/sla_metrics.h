// SPDX-License-Identifier: Apache-2.0
//
// The families of the SLA policies (weir_sla_*).
//
// Thread-safe: pure functions.
#pragma once

#include "agent/telemetry/prometheus_text.h"
#include "agent/upstream/sla_reading.h"

namespace weir::telemetry {

/// In the order of the catalogue.
void render_sla_metrics(PrometheusText& out, const upstream::SlaReading& reading);

}  // namespace weir::telemetry
