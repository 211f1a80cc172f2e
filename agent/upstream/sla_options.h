// SPDX-License-Identifier: Apache-2.0
//
// What a route's policy may do, as plain values, and how it follows from the configuration.
//
// Thread-safe: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "agent/base/clock.h"
#include "weir/v1/config.pb.h"

namespace weir::upstream {

/// Each part is unset when it is off.
struct SlaOptions {
  struct Retry {
    std::uint32_t max_attempts = 3;  ///< in all
    Duration backoff{};
  };
  struct AdaptiveRetry {
    std::uint32_t max_attempts = 2;  ///< in all
    Duration after{};
  };
  struct FastFail {
    double min_health = 0.5;
    std::string backup_model;  ///< empty: refuse
  };
  struct Degrade {
    std::size_t cache_entries = 0;
    std::uint64_t cache_bytes = 0;
    std::string default_text;  ///< empty: none
  };

  std::string route;  ///< empty: every route without a policy of its own
  std::optional<Retry> retry;
  std::optional<AdaptiveRetry> adaptive_retry;
  std::optional<FastFail> fast_fail;
  std::optional<Degrade> degrade;
  /// Of retries and adaptive attempts together; also where Retry is off.
  double budget_percent = 20;
};

/// `policy` comes from config::load_config(): every default is filled in.
[[nodiscard]] SlaOptions sla_options(const weir::v1::SlaPolicy& policy);

}  // namespace weir::upstream
