// SPDX-License-Identifier: Apache-2.0
//
// An Executor in front of another one that keeps to a service level: by the route of a request it
// tries again what failed, adds an attempt beside one that is slow, does not ask models that are
// unwell, and answers without a model when there is none to ask. Requests of routes without a
// policy pass through.
//
// Thread-safe. Owns the policies and the requests that wait between two attempts. The wrapped
// executor must outlive it; clock and timers must outlive the wrapped executor as well, whose
// listeners use them until the last request has ended. The destructor ends those that wait with
// kUnavailable and lets attempts that are under way end by themselves; nothing is submitted from
// then on.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/model/generation.h"
#include "agent/upstream/route_policy.h"
#include "agent/upstream/sla_options.h"
#include "agent/upstream/sla_reading.h"
#include "agent/upstream/timers.h"

namespace weir::upstream {

class PolicyExecutor final : public model::Executor {
 public:
  /// Precondition: each route once, backup models exist (agent/config/validate.cc). `seed`: of the
  /// jitter, different for each agent.
  PolicyExecutor(std::vector<SlaOptions> policies, model::Executor& models, Timers& timers,
                 const Clock& clock, std::uint64_t seed);
  PolicyExecutor(const PolicyExecutor&) = delete;
  PolicyExecutor& operator=(const PolicyExecutor&) = delete;
  ~PolicyExecutor() override;

  /// As Executor::submit(); the listener may hear a degraded answer before it returns.
  [[nodiscard]] std::optional<model::Refusal> submit(
      std::string_view model, std::shared_ptr<model::GenerationRequest> request) override;
  [[nodiscard]] std::optional<Duration> predicted_wait(std::string_view model,
                                                       std::int32_t level) const override;
  [[nodiscard]] bool has_model(std::string_view model) const override;
  [[nodiscard]] model::Task task(std::string_view model) const override;
  [[nodiscard]] std::vector<model::ModelInfo> models() const override;

  [[nodiscard]] SlaReading reading() const;

 private:
  // Constant after construction.
  const std::shared_ptr<SlaContext> context_;
  std::map<std::string, std::shared_ptr<RoutePolicy>, std::less<>> policies_;
  std::shared_ptr<RoutePolicy> other_routes_;  ///< null: they have none
};

}  // namespace weir::upstream
