// SPDX-License-Identifier: Apache-2.0
//
// Runs one-shot work: requests wait in a fair queue, idle instances take batches of them as the
// former says, and a BatchExecutor executes these.
//
// A request's cost here is what a server can be measured by, so there is little of it: submit()
// takes one lock, wakes a thread only when a batch is due that nobody awake will see, and an
// instance takes the lock once for each batch.
//
// Thread-safe: every method from any thread. Owns queue, executor and threads; clock and timers
// must outlive it. Every accepted request's listener hears exactly one end, outside every lock:
// from an instance's thread, from that of cancel() while it waits, or from the timers' when its
// deadline passes while it waits. What is cancelled or late while it is executed hears so when its
// batch ends. The destructor ends what is left with kUnavailable.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "agent/base/clock.h"
#include "agent/model/generation.h"
#include "agent/model/runner.h"
#include "agent/schedule/batch_executor.h"
#include "agent/schedule/batch_former.h"
#include "agent/schedule/queue_options.h"
#include "agent/schedule/timer.h"

namespace weir::model {

struct OneShotOptions {
  std::string name;
  std::string kind;  ///< ModelInfo::kind
  schedule::BatchOptions batch;
  schedule::QueueOptions queue;
};

class OneShotRunner final : public Runner {
 public:
  /// Precondition: valid options (Registry::create() checks them). Throws std::system_error when
  /// the system has no more threads.
  OneShotRunner(OneShotOptions options, std::unique_ptr<schedule::BatchExecutor> executor,
                const Clock& clock, schedule::TimerThread& timers);
  OneShotRunner(const OneShotRunner&) = delete;
  OneShotRunner& operator=(const OneShotRunner&) = delete;
  ~OneShotRunner() override;

  [[nodiscard]] std::optional<Refusal> submit(std::shared_ptr<GenerationRequest> request) override;
  void begin_drain() override;
  [[nodiscard]] bool wait_idle(TimePoint deadline) override;
  [[nodiscard]] ModelInfo info() const override;
  [[nodiscard]] std::optional<Duration> predicted_wait(std::int32_t level) const override;

 private:
  class Core;

  /// Shared with what outlives this: cancellers in requests, and timers.
  std::shared_ptr<Core> core_;
  std::vector<std::jthread> threads_;
};

}  // namespace weir::model
