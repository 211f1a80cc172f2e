// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/control_options.h"

#include <chrono>

namespace weir::balance {

Result<ControlOptions> control_options(const weir::v1::Config& config, const Endpoint& local) {
  using std::chrono::milliseconds;
  const auto& control = config.control();
  ControlOptions options;
  options.tick = milliseconds(control.tick_ms());
  options.latency_tau = milliseconds(control.latency_tau_ms());
  options.health.breaker.open_after_failures = control.open_after_failures();
  options.health.breaker.open = milliseconds(control.open_ms());
  options.health.breaker.max_open = milliseconds(control.max_open_ms());
  for (const auto& service : config.services()) {
    if (service.when_empty() == weir::v1::REFUSE) options.health.never_panic.insert(service.name());
    for (const auto& backend : service.backends()) {
      Endpoint address = local;
      if (!backend.local()) {
        auto parsed = Endpoint::parse(backend.address());
        if (!parsed) return std::move(parsed).error().context("service " + service.name());
        address = *parsed;
      }
      options.base_weights[{service.name(), address}] = backend.weight();
    }
  }
  return options;
}

}  // namespace weir::balance
