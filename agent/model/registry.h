// SPDX-License-Identifier: Apache-2.0
//
// The models of this agent, by name, each with its own runner: the production Executor.
//
// Thread-safe: all methods from any thread, none waits for a model but wait_idle(). Owns the
// runners; its destructor ends what is still accepted with kUnavailable, each listener told once.
// A model whose file is missing or damaged does not keep the registry from being made: the first
// request for it hears why.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/loaded_model.h"
#include "agent/model/runner.h"
#include "agent/schedule/timer.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

class Registry final : public Executor {
 public:
  /// Fails with kInvalidArgument, naming model, field and limit, when an option is out of range or
  /// a name occurs twice. Clock and workers, which tokenize prompts, must outlive the registry.
  static Result<std::unique_ptr<Registry>> create(std::vector<ModelOptions> models,
                                                  const Clock& clock,
                                                  schedule::WorkerPool& workers);

  [[nodiscard]] std::optional<Refusal> submit(std::string_view model,
                                              std::shared_ptr<GenerationRequest> request) override;
  [[nodiscard]] std::optional<Duration> predicted_wait(std::string_view model,
                                                       std::int32_t level) const override;
  [[nodiscard]] bool has_model(std::string_view model) const override;
  [[nodiscard]] std::vector<ModelInfo> models() const override;

  /// From now on every submit is refused with kDraining; what was accepted is finished.
  void begin_drain();

  /// Waits until every accepted request has ended; false when `timeout` passed first.
  [[nodiscard]] bool wait_idle(Duration timeout);

 private:
  explicit Registry(const Clock& clock) : timers_(clock) {}

  schedule::TimerThread timers_;  ///< of all runners; before them: they use it to their end
  // Constant after create().
  std::map<std::string, std::unique_ptr<Runner>, std::less<>> runners_;
};

}  // namespace weir::model
