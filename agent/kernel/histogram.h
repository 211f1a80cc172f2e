// SPDX-License-Identifier: Apache-2.0
//
// User-space view of a latency histogram (struct weir_hist summed over CPUs).
//
// Thread-safe: a value.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>

#include "weir/abi.h"

namespace weir::kernel {

class Histogram {
 public:
  void add(const weir_hist& per_cpu);

  [[nodiscard]] std::uint64_t count() const;
  [[nodiscard]] std::chrono::nanoseconds sum() const;
  /// Unset when empty.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> mean() const;
  /// The mean of the samples in the bucket that holds quantile `q` in [0, 1]; unset when empty.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> quantile(double q) const;
  /// Samples since `earlier`, an older reading of the same histogram.
  [[nodiscard]] Histogram since(const Histogram& earlier) const;

  [[nodiscard]] const std::array<weir_hist_bucket, WEIR_HIST_BUCKETS>& buckets() const {
    return buckets_;
  }
  /// Upper bound of bucket `i`.
  [[nodiscard]] static std::chrono::nanoseconds upper_bound(std::size_t i);

 private:
  std::array<weir_hist_bucket, WEIR_HIST_BUCKETS> buckets_{};
};

}  // namespace weir::kernel
