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
    case WEIR_BE_DRAINING:
      return "draining";
  }
  return "unknown";
}

[[nodiscard]] constexpr std::string_view to_string(weir_breaker_state state) {
  switch (state) {
    case WEIR_BREAKER_CLOSED:
      return "closed";
    case WEIR_BREAKER_OPEN:
      return "open";
    case WEIR_BREAKER_HALF_OPEN:
      return "half_open";
  }
  return "unknown";
}

[[nodiscard]] constexpr std::string_view to_string(weir_policy policy) {
  switch (policy) {
    case WEIR_POLICY_PREQUAL:
      return "prequal";
    case WEIR_POLICY_P2C:
      return "p2c";
    case WEIR_POLICY_WEIGHTED_RANDOM:
      return "weighted_random";
    case WEIR_POLICY_ROUND_ROBIN:
      return "round_robin";
    case WEIR_POLICY_LEAST_INFLIGHT:
      return "least_inflight";
  }
  return "unknown";
}

[[nodiscard]] constexpr std::string_view to_string(weir_rule rule) {
  switch (rule) {
    case WEIR_RULE_NONE:
      return "none";
    case WEIR_RULE_ONLY:
      return "only_candidate";
    case WEIR_RULE_SAME:
      return "drawn_twice";
    case WEIR_RULE_COLD:
      return "cold_over_hot";
    case WEIR_RULE_LATENCY:
      return "lower_latency";
    case WEIR_RULE_LOAD:
      return "lower_load";
    case WEIR_RULE_TURN:
      return "its_turn";
    case WEIR_RULE_LEAST:
      return "least_load";
    case WEIR_RULE_SCAN:
      return "next_usable";
    case WEIR_RULE_COUNT:
      break;
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
