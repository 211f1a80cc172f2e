// SPDX-License-Identifier: Apache-2.0
//
// The composition root: makes the stages from a configuration, connects them, and starts and stops
// them in the right order. Decides nothing itself.
//
// Thread-safety: belongs to the main thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "agent/admit/admission.h"
#include "agent/admit/admission_sampler.h"
#include "agent/balance/control_loop.h"
#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/kernel/data_plane.h"
#include "agent/kernel/listen_steering.h"
#include "agent/kernel/takeover.h"
#include "agent/model/registry.h"
#include "agent/schedule/timer.h"
#include "agent/schedule/worker_pool.h"
#include "agent/serve/http_server.h"
#include "agent/telemetry/metrics_source.h"
#include "agent/upstream/policy_executor.h"
#include "agent/upstream/timers.h"
#include "weir/v1/config.pb.h"

namespace weir {

class Agent {
 public:
  /// Serves and steers when it returns. `config` comes from config::load_config(). With `take_over`
  /// a running agent hands its connections and pins over to this one; where none runs, this is an
  /// ordinary start. When it fails, the running one serves on. `asked_to_stop` ends the wait for
  /// models that are loaded before a takeover, which may take minutes.
  static Result<std::unique_ptr<Agent>> start(const weir::v1::Config& config,
                                              bool take_over = false,
                                              const std::function<bool()>& asked_to_stop = {});

  /// Without shutdown() the kernel programs stay attached and steer on (fail static).
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  /// Takes the local backend out of the pools, stops accepting, finishes running requests within
  /// the configured time, detaches.
  Status shutdown();

  /// Looks for models in the folder, and replaces loaded ones whose file has been. Returns at once.
  void reload_models() { models_->reload(); }

  /// To be called every kHandOverPoll. When a successor asks: hands over to it, finishes what is
  /// open within the configured time, and returns true; only destruction is left to do then.
  [[nodiscard]] bool hand_over_if_asked();
  static constexpr std::chrono::milliseconds kHandOverPoll{100};

 private:
  /// /metrics reads what the control loop saw last, and what policies and workers did.
  class LastSnapshot final : public telemetry::MetricsSource {
   public:
    void follow(const balance::ControlLoop& control) { control_ = &control; }
    void follow(const upstream::PolicyExecutor& policies) { policies_ = &policies; }
    void follow(const schedule::WorkerPool& workers) { workers_ = &workers; }
    [[nodiscard]] std::shared_ptr<const kernel::Snapshot> kernel_snapshot() const override;
    [[nodiscard]] model::VettingReading vetting_reading() const override;
    [[nodiscard]] upstream::SlaReading sla_reading() const override;
    [[nodiscard]] std::optional<schedule::WorkerPoolReading> worker_reading() const override;

   private:
    std::atomic<const balance::ControlLoop*> control_{nullptr};
    const upstream::PolicyExecutor* policies_ = nullptr;  ///< set before the server starts
    const schedule::WorkerPool* workers_ = nullptr;       ///< likewise
  };

  Agent() = default;
  Status serve(bool share_port);
  /// What requests are submitted to.
  [[nodiscard]] model::Executor& with_policies();
  Status steer(std::chrono::milliseconds wait_for_lock);
  [[nodiscard]] Status publish_without_local();
  void await_steered_connects();

  // takeover.cc: the successor's side, then the predecessor's.
  Status find_running();
  Status await_preloads(const std::function<bool()>& asked_to_stop);
  Status ask_running(const std::function<bool()>& asked_to_stop);
  void give_up();
  void share_listeners();
  [[nodiscard]] bool await_successor(std::uint32_t ticket);
  [[nodiscard]] bool resume(std::uint32_t ticket);

  // In the order in which they depend on each other; destroyed from the last to the first.
  weir::v1::Config config_;
  SteadyClock clock_;
  std::chrono::seconds drain_timeout_{0};
  LastSnapshot last_snapshot_;
  std::unique_ptr<admit::Admission> admission_;
  // Set when there are policies. The timers outlive the models: requests that these end use them.
  std::optional<schedule::TimerThread> timer_thread_;
  std::optional<upstream::ThreadTimers> timers_;
  std::unique_ptr<schedule::WorkerPool> workers_;
  std::unique_ptr<model::Registry> models_;
  std::optional<admit::AdmissionSampler> admission_sampler_;  ///< asks models_
  std::optional<upstream::PolicyExecutor> policies_;          ///< in front of models_
  std::unique_ptr<kernel::ListenSteering> listeners_;         ///< null: the kernel chooses by hash
  std::unique_ptr<serve::HttpServer> http_;
  std::unique_ptr<kernel::DataPlane> data_plane_;   ///< null: kernel.enabled is false
  std::optional<kernel::TakeoverMailbox> mailbox_;  ///< unset likewise
  std::uint64_t start_ns_ = 0;                      ///< ours, as in the mailbox
  std::unique_ptr<balance::ControlLoop> control_;   ///< null likewise
  /// Loops from before a takeover that failed: an I/O thread may still be reading their report.
  std::vector<std::unique_ptr<balance::ControlLoop>> retired_;
  std::jthread control_thread_;
};

}  // namespace weir
