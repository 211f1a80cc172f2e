// SPDX-License-Identifier: Apache-2.0
//
// A model that is none: every job's output is its input, after a configured cost. It stands in for
// a real one where what is around a model is to be measured.
//
// Thread-safe: execute() as its contract says, interrupt() from any thread. Outputs are the inputs
// themselves, nothing is copied. Cannot fail but by interrupt().
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <span>

#include "agent/base/clock.h"
#include "agent/schedule/batch_executor.h"

namespace weir::model {

struct IdentityOptions {
  Duration batch{};   ///< cost of a batch whatever its size; 0..10 s
  Duration item{};    ///< cost of each member; 0..10 s
  bool busy = false;  ///< whether the cost is spent on the CPU, or waited for
};

class Identity final : public schedule::BatchExecutor {
 public:
  explicit Identity(IdentityOptions options) : options_(options) {}

  void execute(std::size_t instance, std::span<schedule::BatchJob> jobs) override;
  void interrupt() override;

 private:
  /// False: interrupted.
  bool spend(Duration cost);

  const IdentityOptions options_;
  std::atomic<bool> interrupted_{false};
  std::mutex mutex_;
  std::condition_variable wake_;  ///< a waiting execute(): interrupted_
};

}  // namespace weir::model
