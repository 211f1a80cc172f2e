// SPDX-License-Identifier: Apache-2.0
//
// Everything that /metrics says, made from plain values. The catalogue is the single list of
// metrics; deploy/METRICS.md is checked against it.
//
// Thread-safe: pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/admit/admission.h"
#include "agent/kernel/data_plane.h"
#include "agent/model/generation.h"
#include "agent/model/vetting_reading.h"
#include "agent/schedule/worker_pool.h"
#include "agent/telemetry/http_counters.h"
#include "agent/telemetry/prometheus_text.h"
#include "agent/upstream/sla_reading.h"

namespace weir::telemetry {

struct MetricsInput {
  std::string_view build_id;
  HttpReading http;
  /// Null: nothing is admitted here, its families are left out.
  const admit::AdmissionReading* admission = nullptr;
  std::vector<model::ModelInfo> models;
  model::VettingReading vetting;
  upstream::SlaReading sla;
  /// Unset: there is no pool, its families are left out.
  std::optional<schedule::WorkerPoolReading> workers;
  /// Null: the kernel side is off, its families are left out.
  const kernel::Snapshot* kernel = nullptr;
};

/// Prometheus text 0.0.4, families in the order of the catalogue.
[[nodiscard]] std::string render_metrics(const MetricsInput& input);

[[nodiscard]] std::span<const MetricDescription> metric_catalogue();

}  // namespace weir::telemetry
