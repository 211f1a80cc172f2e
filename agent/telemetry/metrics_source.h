// SPDX-License-Identifier: Apache-2.0
//
// Where /metrics finds the numbers of others: of the kernel, whose maps the control loop owns and
// the HTTP threads must not touch, of the SLA policies, of model files, and of the worker pool.
//
// Thread-safe: callable from any thread.
#pragma once

#include <memory>
#include <optional>

#include "agent/kernel/data_plane.h"
#include "agent/model/vetting_reading.h"
#include "agent/schedule/worker_pool.h"
#include "agent/upstream/sla_reading.h"

namespace weir::telemetry {

class MetricsSource {
 public:
  virtual ~MetricsSource() = default;
  /// The last reading, shared and never changed again; null while the kernel side is off or has
  /// not been read yet. Must not block.
  [[nodiscard]] virtual std::shared_ptr<const kernel::Snapshot> kernel_snapshot() const = 0;
  /// Of this process; nothing where no model files are loaded.
  [[nodiscard]] virtual model::VettingReading vetting_reading() const { return {}; }
  /// Empty without policies.
  [[nodiscard]] virtual upstream::SlaReading sla_reading() const { return {}; }
  /// Unset without a pool.
  [[nodiscard]] virtual std::optional<schedule::WorkerPoolReading> worker_reading() const {
    return std::nullopt;
  }
};

}  // namespace weir::telemetry
