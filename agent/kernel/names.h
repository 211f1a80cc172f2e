// SPDX-License-Identifier: Apache-2.0
//
// How the enums of abi.h are spelled for people: in `weir`, in its JSON and in /metrics.
//
// Thread-safe: pure functions.
#pragma once

#include <string_view>

#include "weir/abi.h"

namespace weir::kernel {

[[nodiscard]] constexpr std::string_view to_string(weir_be_state state) {
  switch (state) {
    case WEIR_BE_FREE:
      return "free";
    case WEIR_BE_ACTIVE:
      return "active";
    case WEIR_BE_OPEN:
      return "open";
    case WEIR_BE_DRAINING:
      return "draining";
  }
  return "unknown";
}

[[nodiscard]] constexpr std::string_view to_string(weir_request_clock clock) {
  switch (clock) {
    case WEIR_CLOCK_NONE:
      return "none";
    case WEIR_CLOCK_TRACEPOINT:
      return "tracepoint";
    case WEIR_CLOCK_SKB:
      return "skb";
  }
  return "unknown";
}

}  // namespace weir::kernel
