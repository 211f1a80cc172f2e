// SPDX-License-Identifier: Apache-2.0
//
// One model inside this process, served by what serves it in the agent: registry, queue and engine.
// For the commands that need no server.
//
// Thread-safe: every method from any thread. Owns all of it; its destructor ends requests that are
// left with kUnavailable.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/registry.h"
#include "agent/schedule/worker_pool.h"

namespace weir::ctl {

struct LocalModelOptions {
  std::string path;
  std::uint32_t sequences = 1;
  std::optional<std::uint32_t> context_tokens;  ///< per sequence; unset: as trained
  std::optional<std::uint32_t> threads;         ///< unset: as the agent chooses
};

class LocalModel {
 public:
  /// Loads nothing yet: the first request does. What goes wrong then the listeners hear; the log
  /// may be off.
  static Result<std::unique_ptr<LocalModel>> create(const LocalModelOptions& options);

  /// Unset: accepted, as Executor::submit() says.
  [[nodiscard]] std::optional<Error> submit(std::shared_ptr<model::GenerationRequest> request);
  [[nodiscard]] model::ModelInfo info() const;
  [[nodiscard]] const Clock& clock() const { return clock_; }

 private:
  LocalModel() = default;

  SteadyClock clock_;
  std::unique_ptr<schedule::WorkerPool> workers_;
  std::unique_ptr<model::Registry> registry_;  // last: uses the others to its end
};

}  // namespace weir::ctl
