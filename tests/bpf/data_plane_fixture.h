// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the attached programs share: a sandbox, an attached data plane, short names.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "agent/kernel/data_plane.h"
#include "tests/fixtures/kernel_sandbox.h"
#include "tests/fixtures/tcp_backend.h"

namespace weir::kernel {

inline Endpoint endpoint(std::string_view text) { return Endpoint::parse(text).value(); }

inline ServiceSpec service(std::string_view address, const std::vector<Endpoint>& backends,
                           bool refuse_when_empty = false) {
  ServiceSpec spec;
  spec.name = "service";
  spec.address = endpoint(address);
  spec.refuse_when_empty = refuse_when_empty;
  for (const Endpoint& backend : backends) spec.backends.push_back({backend, false});
  return spec;
}

class DataPlaneTest : public testing::Test {
 protected:
  void SetUp() override {
    require(sandbox_.problem().empty() ? missing_feature() : sandbox_.problem());
  }

  /// What this kernel lacks for any of these tests; empty: nothing.
  static std::string missing_feature() {
    const auto capabilities = probe_capabilities();
    if (!capabilities) return capabilities.error().message;
    for (const Capability& capability : *capabilities) {
      if (capability.required && capability.use == Capability::Use::kMissing) {
        return "this kernel lacks " + capability.name + " (" + capability.detail + ")";
      }
    }
    return "";
  }

  /// Skips the test, or fails it where everything has to be there (CI=true).
  static void require(const std::string& problem) {
    if (problem.empty()) return;
    const char* const ci = std::getenv("CI");
    if (ci != nullptr && std::string(ci) == "true") FAIL() << problem;
    GTEST_SKIP() << "not run: " << problem;
  }

  Result<std::unique_ptr<DataPlane>> try_attach(std::vector<ServiceSpec> services,
                                                std::optional<weir_request_clock> clock = {}) {
    DataPlane::Options options;
    options.cgroup_path = sandbox_.cgroup();
    options.pin_root = sandbox_.pin_root();
    options.request_clock = clock;
    options.breaker = breaker_;
    options.services = std::move(services);
    return DataPlane::attach(options);
  }

  /// Attaches and publishes these weights, in the order of the backends' indexes.
  void attach(std::vector<ServiceSpec> services, const std::vector<double>& weights,
              std::optional<weir_request_clock> clock = {}) {
    auto attached = try_attach(std::move(services), clock);
    ASSERT_TRUE(attached.ok()) << attached.error().message;
    plane_ = std::move(*attached);
    publish(weights);
  }

  void publish(const std::vector<double>& weights) {
    std::vector<BackendDecision> decisions;
    for (std::uint32_t i = 0; i < weights.size(); ++i) {
      decisions.push_back({i, weights[i], std::nullopt});
    }
    const Status done = plane_->publish(decisions);
    ASSERT_TRUE(done.ok()) << done.error().message;
  }

  Snapshot snapshot() { return plane_->read().value(); }
  BackendReading backend(std::size_t i) { return snapshot().backends.at(i); }
  std::uint64_t stat(weir_stat_id id) { return snapshot().stats.at(id); }

  /// The kernel finishes closes of a dead process on its own time.
  template <typename Condition>
  static bool eventually(Condition condition) {
    for (int i = 0; i < 400; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return condition();
  }

  BreakerOptions breaker_;
  KernelSandbox sandbox_;
  std::unique_ptr<DataPlane> plane_;
};

}  // namespace weir::kernel
