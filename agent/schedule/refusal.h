// SPDX-License-Identifier: Apache-2.0
//
// Why a request is refused, and when it may come back: the one vocabulary of admission, queue,
// executors, status bodies, logs and metrics.
//
// Thread-safe: values.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace weir::schedule {

/// A closed set. The names are the same everywhere; to_string() makes them.
enum class RefusalReason {
  kQueueFull,
  kRateLimited,
  kDeadline,  ///< has passed, or cannot be met
  kMemory,
  kBreakerOpen,
  kDraining,
  kLoading,
  kCancelled
};
inline constexpr std::size_t kRefusalReasons =
    static_cast<std::size_t>(RefusalReason::kCancelled) + 1;

[[nodiscard]] std::string_view to_string(RefusalReason reason);

struct Refusal {
  RefusalReason reason = RefusalReason::kQueueFull;
  std::string message;
  /// When trying again makes sense; unset: never.
  std::optional<std::chrono::seconds> retry_after;
};

}  // namespace weir::schedule
