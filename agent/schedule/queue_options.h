// SPDX-License-Identifier: Apache-2.0
//
// Bounds and ageing of a queue of requests, and the names of the bounds.
//
// Thread-safe: values and pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

#include "agent/base/clock.h"
#include "agent/schedule/level.h"
#include "agent/schedule/tenant_shares.h"

namespace weir::schedule {

/// So much waits.
struct QueueLoad {
  std::size_t requests = 0;
  std::uint64_t tokens = 0;
  bool operator==(const QueueLoad&) const = default;
};

struct QueueBounds {
  std::size_t max_requests = std::numeric_limits<std::size_t>::max();    ///< >= 1
  std::uint64_t max_tokens = std::numeric_limits<std::uint64_t>::max();  ///< >= 1
};

struct QueueOptions {
  QueueBounds all;
  /// Of the requests that came with a level, wherever they have moved since.
  std::array<QueueBounds, kLevels> levels{};
  /// > 0; unset: nobody moves up.
  std::optional<Duration> ageing;
  TenantWeights weights;  ///< 0.01..1000; 1 for those that are not named
};

/// Which bound a refused push would have broken.
enum class QueueBound { kRequests, kTokens, kLevelRequests, kLevelTokens, kTenantRequests };

[[nodiscard]] constexpr std::string_view to_string(QueueBound bound) {
  switch (bound) {
    case QueueBound::kRequests:
      return "requests";
    case QueueBound::kTokens:
      return "tokens";
    case QueueBound::kLevelRequests:
      return "requests of the level";
    case QueueBound::kLevelTokens:
      return "tokens of the level";
    case QueueBound::kTenantRequests:
      return "requests of the tenant, of which others want to wait too";
  }
  return "unknown";
}

}  // namespace weir::schedule
