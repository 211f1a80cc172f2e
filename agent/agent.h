// SPDX-License-Identifier: Apache-2.0
//
// The composition root: makes the stages from a configuration, connects them, and starts and stops
// them in the right order. Decides nothing itself.
//
// Thread-safety: belongs to the main thread.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "agent/balance/control_loop.h"
#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/kernel/data_plane.h"
#include "agent/model/registry.h"
#include "agent/serve/http_server.h"
#include "agent/telemetry/metrics_source.h"
#include "weir/v1/config.pb.h"

namespace weir {

class Agent {
 public:
  /// Serves and steers when it returns. `config` comes from config::load_config().
  static Result<std::unique_ptr<Agent>> start(const weir::v1::Config& config);

  /// Without shutdown() the kernel programs stay attached and steer on (fail static).
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  /// Takes the local backend out of the pools, stops accepting, finishes running requests within
  /// the configured time, detaches.
  Status shutdown();

 private:
  /// /metrics reads what the control loop saw last.
  class LastSnapshot final : public telemetry::MetricsSource {
   public:
    void follow(const balance::ControlLoop& control) { control_ = &control; }
    [[nodiscard]] std::shared_ptr<const kernel::Snapshot> kernel_snapshot() const override;

   private:
    std::atomic<const balance::ControlLoop*> control_{nullptr};
  };

  Agent() = default;
  Status serve(const weir::v1::Config& config);
  Status steer(const weir::v1::Config& config);
  [[nodiscard]] Status publish_without_local();
  void await_steered_connects();

  // In the order in which they depend on each other; destroyed from the last to the first.
  SteadyClock clock_;
  std::chrono::seconds drain_timeout_{0};
  LastSnapshot last_snapshot_;
  std::unique_ptr<model::Registry> models_;
  std::unique_ptr<serve::HttpServer> http_;
  std::unique_ptr<kernel::DataPlane> data_plane_;  ///< null: kernel.enabled is false
  std::unique_ptr<balance::ControlLoop> control_;  ///< null likewise
  std::jthread control_thread_;
};

}  // namespace weir
