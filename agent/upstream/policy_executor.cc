// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/policy_executor.h"

#include <utility>

#include "agent/upstream/policy_call.h"

namespace weir::upstream {

PolicyExecutor::PolicyExecutor(std::vector<SlaOptions> policies, model::Executor& models,
                               Timers& timers, const Clock& clock, std::uint64_t seed)
    : context_(std::make_shared<SlaContext>(models, timers, clock, seed)) {
  for (SlaOptions& options : policies) {
    std::string route = options.route;
    auto policy = std::make_shared<RoutePolicy>(std::move(options), clock);
    if (route.empty()) {
      other_routes_ = std::move(policy);
    } else {
      policies_.emplace(std::move(route), std::move(policy));
    }
  }
}

PolicyExecutor::~PolicyExecutor() { context_->stop(); }

std::optional<model::Refusal> PolicyExecutor::submit(
    std::string_view model, std::shared_ptr<model::GenerationRequest> request) {
  const auto found = policies_.find(request->route);
  const auto& policy = found == policies_.end() ? other_routes_ : found->second;
  if (!policy) return context_->models.submit(model, std::move(request));
  return std::make_shared<PolicyCall>(context_, policy, std::string(model), std::move(request))
      ->start();
}

std::optional<Duration> PolicyExecutor::predicted_wait(std::string_view model,
                                                       std::int32_t level) const {
  return context_->models.predicted_wait(model, level);
}

bool PolicyExecutor::has_model(std::string_view model) const {
  return context_->models.has_model(model);
}

model::Task PolicyExecutor::task(std::string_view model) const {
  return context_->models.task(model);
}

std::vector<model::ModelInfo> PolicyExecutor::models() const { return context_->models.models(); }

SlaReading PolicyExecutor::reading() const {
  SlaReading reading;
  if (other_routes_) reading.routes.push_back(other_routes_->reading());
  for (const auto& [route, policy] : policies_) reading.routes.push_back(policy->reading());
  reading.health = context_->health.shares();
  return reading;
}

}  // namespace weir::upstream
