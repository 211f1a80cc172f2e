// SPDX-License-Identifier: Apache-2.0
//
// What the control loop is told by the configuration.
//
// Thread-safe: values and a pure function.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "agent/health/tracker.h"
#include "weir/v1/config.pb.h"

namespace weir::balance {

struct ControlOptions {
  /// Period of latencies and weights.
  Duration tick = std::chrono::seconds(1);
  /// Period of the limits on load and of what is said about health.
  Duration health_tick = std::chrono::milliseconds(100);
  Duration latency_tau = std::chrono::seconds(10);
  /// Configured weight by pool and address; a backend that is not named has 1.
  std::map<health::BackendKey, double> base_weights;
  /// Names of the pools whose weights are worked out; those of the others stay as configured.
  std::set<std::string> composite;
  std::filesystem::path proc = "/proc";
};

/// From a loaded configuration (agent/config). `local` is the address under which the kernel knows
/// this agent's own listener. Fails with kInvalidArgument on a malformed endpoint.
Result<ControlOptions> control_options(const weir::v1::Config& config, const Endpoint& local);

}  // namespace weir::balance
