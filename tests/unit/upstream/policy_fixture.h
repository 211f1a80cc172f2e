// SPDX-License-Identifier: Apache-2.0
//
// A PolicyExecutor in front of models that the test plays, on a clock that the test moves.
//
// Thread-compatible: belongs to the test's thread.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/upstream/policy_executor.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/unit/upstream/puppet_models.h"
#include "tests/unit/upstream/simulated_timers.h"

namespace weir::upstream {

using std::chrono::milliseconds;
using std::chrono::seconds;

class PolicyTest : public testing::Test {
 protected:
  /// Requests that a test leaves unended would keep themselves, by way of who waits for their end.
  ~PolicyTest() override {
    for (const PuppetModels::Submitted& left : models.submitted) left.request->listener.reset();
  }

  /// Makes the executor from `options`, when the first request comes.
  PolicyExecutor& executor() {
    if (!executor_) {
      executor_ = std::make_unique<PolicyExecutor>(std::vector{options}, models, timers, clock, 1);
    }
    return *executor_;
  }

  Asked ask(const std::string& prompt = "Once", std::optional<Duration> time_left = std::nullopt) {
    Asked asked{std::make_shared<model::GenerationRequest>(), std::make_shared<HeardListener>(),
                std::nullopt};
    asked.request->route = "/infer";
    asked.request->prompt = prompt;
    asked.request->sampling.temperature = 0;
    asked.request->listener = asked.heard;
    if (time_left) asked.request->deadline = clock.now() + *time_left;
    asked.refused = executor().submit("main", asked.request);
    EXPECT_FALSE(asked.refused && asked.heard->ends > 0) << "refused, and told as well";
    return asked;
  }

  SlaRouteReading reading() { return executor().reading().routes.at(0); }

  static model::Refusal refusal(model::RefusalReason reason,
                                std::optional<seconds> after = std::nullopt) {
    return {reason, "scripted", after};
  }

  FakeClock clock;
  SimulatedTimers timers{clock};
  PuppetModels models;
  SlaOptions options = [] {
    SlaOptions all_off;
    all_off.route = "/infer";
    return all_off;
  }();

 private:
  std::unique_ptr<PolicyExecutor> executor_;
};

}  // namespace weir::upstream
