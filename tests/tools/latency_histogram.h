// SPDX-License-Identifier: Apache-2.0
//
// A log-linear latency histogram for load tools: 128 buckets per octave, so a quantile is at most
// 0.8 % above the true sample. Finer than the agent's own (4 per octave), because benchmarks divide
// these figures by each other.
//
// Thread-compatible: one thread at a time. Never fails; samples beyond 2^40 ns (18 minutes) count
// in the last bucket.
#pragma once

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace weir::tools {

class LatencyHistogram {
 public:
  /// Negative samples count as zero.
  void add(std::chrono::nanoseconds sample) {
    const auto ns = static_cast<std::uint64_t>(std::max<std::int64_t>(sample.count(), 0));
    ++buckets_[index_of(ns)];
    ++count_;
    sum_ns_ += ns;
    max_ns_ = std::max(max_ns_, ns);
  }

  [[nodiscard]] std::uint64_t count() const { return count_; }

  /// The upper bound of the bucket that holds quantile `q` in [0, 1]; unset when empty.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> quantile(double q) const {
    if (count_ == 0) return std::nullopt;
    const auto wanted = static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(count_)));
    const std::uint64_t rank = std::clamp<std::uint64_t>(wanted, 1, count_);
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      seen += buckets_[i];
      if (seen >= rank) return std::chrono::nanoseconds(std::min(upper_bound_ns(i), max_ns_));
    }
    return max();
  }

  /// Unset when empty.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> max() const {
    if (count_ == 0) return std::nullopt;
    return std::chrono::nanoseconds(max_ns_);
  }

  /// Unset when empty.
  [[nodiscard]] std::optional<std::chrono::nanoseconds> mean() const {
    if (count_ == 0) return std::nullopt;
    return std::chrono::nanoseconds(sum_ns_ / count_);
  }

 private:
  static constexpr unsigned kSubBits = 7;
  static constexpr std::uint64_t kSubBuckets = 1U << kSubBits;
  static constexpr unsigned kMaxBits = 40;

  static std::size_t index_of(std::uint64_t ns) {
    ns = std::min(ns, (std::uint64_t{1} << kMaxBits) - 1);
    if (ns < kSubBuckets) return ns;
    const auto shift = static_cast<unsigned>(std::bit_width(ns)) - kSubBits - 1;
    return shift * kSubBuckets + (ns >> shift);
  }

  static std::uint64_t upper_bound_ns(std::size_t index) {
    if (index < kSubBuckets) return index;
    const std::size_t shift = index / kSubBuckets - 1;
    return (((index - shift * kSubBuckets) + 1) << shift) - 1;
  }

  std::vector<std::uint64_t> buckets_ =
      std::vector<std::uint64_t>((kMaxBits - kSubBits + 1) * kSubBuckets);
  std::uint64_t count_ = 0;
  std::uint64_t sum_ns_ = 0;
  std::uint64_t max_ns_ = 0;
};

}  // namespace weir::tools
