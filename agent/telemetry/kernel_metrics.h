// SPDX-License-Identifier: Apache-2.0
//
// The part of /metrics that was read from the kernel's maps.
//
// Thread-safe: a pure function.
#pragma once

#include "agent/kernel/data_plane.h"
#include "agent/telemetry/prometheus_text.h"

namespace weir::telemetry {

/// Writes the families weir_service_*, weir_backend_* and weir_kernel_* of the catalogue.
void render_kernel_metrics(PrometheusText& out, const kernel::Snapshot& snapshot);

}  // namespace weir::telemetry
