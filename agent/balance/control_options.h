// SPDX-License-Identifier: Apache-2.0
//
// What the control loop is told by the configuration.
//
// Thread-safe: values and a pure function.
#pragma once

#include <filesystem>
#include <map>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "agent/health/tracker.h"
#include "weir/v1/config.pb.h"

namespace weir::balance {

struct ControlOptions {
  Duration tick = std::chrono::seconds(1);
  Duration latency_tau = std::chrono::seconds(10);
  health::TrackerOptions health;
  /// Configured weight by service and address; a backend that is not named has 1.
  std::map<health::BackendKey, double> base_weights;
  std::filesystem::path proc = "/proc";
};

/// From a loaded configuration (agent/config). `local` is the address under which the kernel knows
/// this agent's own listener. Fails with kInvalidArgument on a malformed endpoint.
Result<ControlOptions> control_options(const weir::v1::Config& config, const Endpoint& local);

}  // namespace weir::balance
