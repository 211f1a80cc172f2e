// SPDX-License-Identifier: Apache-2.0
//
// Latencies of load tools: an HdrHistogram of nanoseconds.
//
// Thread-compatible: one thread at a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

#include "agent/base/hdr_histogram.h"

namespace weir::tools {

class LatencyHistogram {
 public:
  /// Negative samples count as zero.
  void add(std::chrono::nanoseconds sample) {
    histogram_.record(static_cast<std::uint64_t>(std::max<std::int64_t>(sample.count(), 0)));
  }

  [[nodiscard]] std::uint64_t count() const { return histogram_.count(); }

  // Unset when empty.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> quantile(double q) const {
    return as_time(histogram_.quantile(q));
  }
  [[nodiscard]] std::optional<std::chrono::nanoseconds> max() const {
    return as_time(histogram_.max());
  }
  [[nodiscard]] std::optional<std::chrono::nanoseconds> mean() const {
    return as_time(histogram_.mean());
  }

 private:
  template <typename Number>
  static std::optional<std::chrono::nanoseconds> as_time(std::optional<Number> ns) {
    if (!ns) return std::nullopt;
    return std::chrono::nanoseconds(static_cast<std::int64_t>(*ns));
  }

  HdrHistogram histogram_;
};

}  // namespace weir::tools
