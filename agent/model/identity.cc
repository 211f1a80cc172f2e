// SPDX-License-Identifier: Apache-2.0
#include "agent/model/identity.h"

#include <chrono>

namespace weir::model {

void Identity::execute(std::size_t /*instance*/, std::span<schedule::BatchJob> jobs) {
  const Duration cost = options_.batch + static_cast<Duration::rep>(jobs.size()) * options_.item;
  const bool done = cost <= Duration::zero() || spend(cost);
  for (schedule::BatchJob& job : jobs) {
    if (done) {
      job.output = job.input;
    } else {
      job.error = make_error(Code::kUnavailable, "the agent is stopping");
    }
  }
}

// Real time, whatever clock the rest goes by: the cost is what a model would take.
bool Identity::spend(Duration cost) {
  const TimePoint end = std::chrono::steady_clock::now() + cost;
  if (options_.busy) {
    while (std::chrono::steady_clock::now() < end) {
      if (interrupted_.load(std::memory_order_relaxed)) return false;
    }
    return true;
  }
  std::unique_lock lock(mutex_);
  return !wake_.wait_until(lock, end,
                           [this] { return interrupted_.load(std::memory_order_relaxed); });
}

void Identity::interrupt() {
  const std::lock_guard lock(mutex_);
  interrupted_.store(true, std::memory_order_relaxed);
  wake_.notify_all();
}

}  // namespace weir::model
