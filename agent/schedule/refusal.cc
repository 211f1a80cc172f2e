// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/refusal.h"

namespace weir::schedule {

std::string_view to_string(RefusalReason reason) {
  switch (reason) {
    case RefusalReason::kQueueFull:
      return "queue_full";
    case RefusalReason::kRateLimited:
      return "rate_limited";
    case RefusalReason::kDeadline:
      return "deadline";
    case RefusalReason::kMemory:
      return "memory";
    case RefusalReason::kBreakerOpen:
      return "breaker_open";
    case RefusalReason::kDraining:
      return "draining";
    case RefusalReason::kLoading:
      return "loading";
    case RefusalReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

}  // namespace weir::schedule
