// SPDX-License-Identifier: Apache-2.0
#include "agent/model/generation.h"

namespace weir::model {

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

std::string_view to_string(ModelInfo::State state) {
  switch (state) {
    case ModelInfo::State::kUnloaded:
      return "unloaded";
    case ModelInfo::State::kLoading:
      return "loading";
    case ModelInfo::State::kReady:
      return "ready";
    case ModelInfo::State::kFailed:
      return "failed";
    case ModelInfo::State::kDraining:
      return "draining";
  }
  return "unknown";
}

}  // namespace weir::model
