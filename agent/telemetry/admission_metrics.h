// SPDX-License-Identifier: Apache-2.0
//
// The families of the admission stage, weir_admission_*.
//
// Thread-safe: pure functions.
#pragma once

#include "agent/admit/admission.h"
#include "agent/telemetry/prometheus_text.h"

namespace weir::telemetry {

void render_admission_metrics(PrometheusText& out, const admit::AdmissionReading& admission);

}  // namespace weir::telemetry
