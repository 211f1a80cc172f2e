// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/control_options.h"

#include <chrono>

namespace weir::balance {
namespace {

using Backends = google::protobuf::RepeatedPtrField<weir::v1::Backend>;

Status add_weights(const std::string& pool, const Backends& backends, const Endpoint& local,
                   ControlOptions& options) {
  for (const auto& backend : backends) {
    Endpoint address = local;
    if (!backend.local()) {
      auto parsed = Endpoint::parse(backend.address());
      if (!parsed) return std::move(parsed).error().context("pool " + pool);
      address = *parsed;
    }
    options.base_weights[{pool, address}] = backend.weight();
  }
  return {};
}

}  // namespace

Result<ControlOptions> control_options(const weir::v1::Config& config, const Endpoint& local) {
  using std::chrono::milliseconds;
  ControlOptions options;
  options.tick = milliseconds(config.control().tick_ms());
  options.latency_tau = milliseconds(config.control().latency_tau_ms());
  for (const auto& service : config.services()) {
    const std::string backup = service.name() + ".backup";
    if (service.policy() == weir::v1::COMPOSITE) {
      options.composite.insert({service.name(), backup});
    }
    auto added = add_weights(service.name(), service.backends(), local, options);
    if (!added) return std::move(added).error();
    added = add_weights(backup, service.backup_backends(), local, options);
    if (!added) return std::move(added).error();
  }
  return options;
}

}  // namespace weir::balance
