// SPDX-License-Identifier: Apache-2.0
//
// Where /metrics finds the kernel's numbers: the seam between the control loop, which owns the
// maps, and the HTTP threads, which must not touch them.
//
// Thread-safe: callable from any thread.
#pragma once

#include <memory>

#include "agent/kernel/data_plane.h"

namespace weir::telemetry {

class MetricsSource {
 public:
  virtual ~MetricsSource() = default;
  /// The last reading, shared and never changed again; null while the kernel side is off or has
  /// not been read yet. Must not block.
  [[nodiscard]] virtual std::shared_ptr<const kernel::Snapshot> kernel_snapshot() const = 0;
};

}  // namespace weir::telemetry
