// SPDX-License-Identifier: Apache-2.0
//
// The seam to what executes one-shot work: work that is done in one go, a batch at a time. Queue
// and former know only this.
//
// Thread-safety and failure behaviour: stated per method. Implementations must not throw.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "agent/base/result.h"

namespace weir::schedule {

struct BatchJob {
  /// Borrowed for the duration of the call.
  std::string_view input;
  /// Filled in. Valid until the instance's next call: the executor's own memory, or part of
  /// `input`.
  std::string_view output;
  /// Filled in for a job that failed; the others of the batch are not touched by it.
  std::optional<Error> error;
};

class BatchExecutor {
 public:
  virtual ~BatchExecutor() = default;

  /// Runs a batch to its end and reports in its jobs. Each instance is called by one thread, one
  /// call at a time; different instances may be called at once. `jobs` is not empty, and no larger
  /// than the configured batch.
  virtual void execute(std::size_t instance, std::span<BatchJob> jobs) = 0;

  /// From now on execute() returns soon: jobs that are not done fail with kUnavailable. Any thread.
  virtual void interrupt() = 0;
};

}  // namespace weir::schedule
