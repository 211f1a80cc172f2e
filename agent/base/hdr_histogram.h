// SPDX-License-Identifier: Apache-2.0
//
// A log-linear histogram of 64-bit values with three significant decimal digits, after Tene's HDR
// histogram: values below 2048 are exact, above that each octave has 1024 buckets, so that a
// quantile is at most 0.1 % above the true sample. Finer than the agent's own (4 per octave),
// because benchmarks divide these figures by each other.
//
// Thread-compatible: one thread at a time. Never fails, loses no sample, and takes 8 bytes for each
// bucket up to the largest value: 160 KB for a second in nanoseconds.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace weir {

class HdrHistogram {
 public:
  void record(std::uint64_t value, std::uint64_t times = 1);
  /// Adds all samples of `other`.
  void merge(const HdrHistogram& other);
  void clear() { *this = HdrHistogram(); }

  [[nodiscard]] std::uint64_t count() const { return count_; }
  // Exact; unset when empty.
  [[nodiscard]] std::optional<std::uint64_t> min() const;
  [[nodiscard]] std::optional<std::uint64_t> max() const;
  [[nodiscard]] std::optional<double> mean() const;

  /// The least value that at least a share `q` of the samples does not exceed, rounded up to the
  /// end of its bucket and never above max(). Unset when empty. `q` outside 0..1 counts as the
  /// nearer end.
  [[nodiscard]] std::optional<std::uint64_t> quantile(double q) const;

  /// Share of the samples that are not above `value`, as far as buckets tell; 0 when empty.
  [[nodiscard]] double share_up_to(std::uint64_t value) const;

  /// Calls visit(least value, greatest value, count) for each bucket with samples, ascending.
  template <typename Visit>
  void for_each_bucket(Visit visit) const {
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      if (buckets_[i] != 0) visit(lower_bound_of(i), upper_bound_of(i), buckets_[i]);
    }
  }

 private:
  static constexpr unsigned kSubBits = 11;  // 2^11 / 2 = 1024 > 10^3
  static constexpr std::uint64_t kExact = std::uint64_t{1} << kSubBits;
  static constexpr std::uint64_t kPerOctave = kExact / 2;

  static std::size_t index_of(std::uint64_t value) {
    if (value < kExact) return value;
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - kSubBits;
    return shift * kPerOctave + (value >> shift);
  }
  static std::size_t shift_of(std::size_t index) {
    return index < kExact ? 0 : index / kPerOctave - 1;
  }
  static std::uint64_t lower_bound_of(std::size_t index) {
    const std::size_t shift = shift_of(index);
    return static_cast<std::uint64_t>(index - shift * kPerOctave) << shift;
  }
  static std::uint64_t upper_bound_of(std::size_t index) {
    return lower_bound_of(index) + ((std::uint64_t{1} << shift_of(index)) - 1);
  }

  std::vector<std::uint64_t> buckets_;  // as many as the largest value needs
  std::uint64_t count_ = 0;
  double sum_ = 0;
  std::uint64_t min_ = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t max_ = 0;
};

}  // namespace weir
