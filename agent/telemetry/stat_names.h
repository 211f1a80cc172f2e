// SPDX-License-Identifier: Apache-2.0
//
// The names of the kernel counters (enum weir_stat_id) as people see them: the `event` label of
// weir_kernel_events_total, and the rows of `weir status`.
//
// Thread-safe: constants.
#pragma once

#include <array>
#include <string_view>

#include "weir/abi.h"

namespace weir::telemetry {

struct StatName {
  weir_stat_id id;
  std::string_view name;  ///< the enumerator without WEIR_STAT_, in snake_case
};

inline constexpr std::array kStatNames = {
    StatName{WEIR_STAT_PASS_NOT_SERVICE, "pass_not_service"},
    StatName{WEIR_STAT_STEERED, "steered"},
    StatName{WEIR_STAT_PASS_POOL_EMPTY, "pass_pool_empty"},
    StatName{WEIR_STAT_REFUSED_POOL_EMPTY, "refused_pool_empty"},
    StatName{WEIR_STAT_NO_STORAGE, "no_storage"},
    StatName{WEIR_STAT_RECONNECT_RELEASED, "reconnect_released"},
    StatName{WEIR_STAT_RELEASED, "released"},
    StatName{WEIR_STAT_UNDERFLOW_PREVENTED, "underflow_prevented"},
    StatName{WEIR_STAT_BAD_INDEX, "bad_index"},
    StatName{WEIR_STAT_EVENT_LOST, "event_lost"},
};
static_assert(kStatNames.size() == WEIR_STAT_COUNT, "a kernel counter has no name");
static_assert(
    [] {
      for (std::size_t i = 0; i < kStatNames.size(); ++i) {
        if (static_cast<std::size_t>(kStatNames[i].id) != i) return false;
      }
      return true;
    }(),
    "kStatNames is out of order");

}  // namespace weir::telemetry
