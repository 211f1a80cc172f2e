// SPDX-License-Identifier: Apache-2.0
//
// What executes the requests of one model, with the queue in front of it: an Engine for generation,
// a OneShotRunner for work that is done in one go.
//
// Thread-safe: every method from any thread; none but wait_idle() waits for the model. Every
// accepted request's listener hears exactly one end, outside every lock; the destructor ends what
// is left with kUnavailable.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "agent/base/clock.h"
#include "agent/model/generation.h"

namespace weir::model {

class Runner {
 public:
  virtual ~Runner() = default;

  /// As Executor::submit().
  [[nodiscard]] virtual std::optional<Refusal> submit(
      std::shared_ptr<GenerationRequest> request) = 0;

  /// New requests are refused from now on; accepted ones are finished.
  virtual void begin_drain() = 0;

  /// Waits until every accepted request has ended; false when `deadline` (real time) came first.
  [[nodiscard]] virtual bool wait_idle(TimePoint deadline) = 0;

  [[nodiscard]] virtual ModelInfo info() const = 0;

  /// As Executor::predicted_wait().
  [[nodiscard]] virtual std::optional<Duration> predicted_wait(std::int32_t level) const = 0;
};

}  // namespace weir::model
