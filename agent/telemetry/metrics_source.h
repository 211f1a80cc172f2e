// SPDX-License-Identifier: Apache-2.0
//
// Where /metrics finds the numbers of others: of the kernel, whose maps the control loop owns and
// the HTTP threads must not touch, and of the SLA policies.
//
// Thread-safe: callable from any thread.
#pragma once

#include <memory>

#include "agent/kernel/data_plane.h"
#include "agent/upstream/sla_reading.h"

namespace weir::telemetry {

class MetricsSource {
 public:
  virtual ~MetricsSource() = default;
  /// The last reading, shared and never changed again; null while the kernel side is off or has
  /// not been read yet. Must not block.
  [[nodiscard]] virtual std::shared_ptr<const kernel::Snapshot> kernel_snapshot() const = 0;
  /// Empty without policies.
  [[nodiscard]] virtual upstream::SlaReading sla_reading() const { return {}; }
};

}  // namespace weir::telemetry
