// SPDX-License-Identifier: Apache-2.0
#include "agent/base/hdr_histogram.h"

#include <algorithm>
#include <cmath>

namespace weir {

void HdrHistogram::record(std::uint64_t value, std::uint64_t times) {
  if (times == 0) return;
  const std::size_t index = index_of(value);
  // To the end of the octave, so that slowly rising values do not move the vector each time.
  if (index >= buckets_.size()) buckets_.resize((index / kPerOctave + 1) * kPerOctave);
  buckets_[index] += times;
  count_ += times;
  sum_ += static_cast<double>(value) * static_cast<double>(times);
  min_ = std::min(min_, value);
  max_ = std::max(max_, value);
}

void HdrHistogram::merge(const HdrHistogram& other) {
  if (other.buckets_.size() > buckets_.size()) buckets_.resize(other.buckets_.size());
  for (std::size_t i = 0; i < other.buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

std::optional<std::uint64_t> HdrHistogram::min() const {
  if (count_ == 0) return std::nullopt;
  return min_;
}

std::optional<std::uint64_t> HdrHistogram::max() const {
  if (count_ == 0) return std::nullopt;
  return max_;
}

std::optional<double> HdrHistogram::mean() const {
  if (count_ == 0) return std::nullopt;
  return sum_ / static_cast<double>(count_);
}

std::optional<std::uint64_t> HdrHistogram::quantile(double q) const {
  if (count_ == 0) return std::nullopt;
  const double wanted = std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count_));
  const std::uint64_t rank =
      std::clamp<std::uint64_t>(static_cast<std::uint64_t>(wanted), 1, count_);
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    if (seen >= rank) return std::min(upper_bound_of(i), max_);
  }
  return max_;
}

double HdrHistogram::share_up_to(std::uint64_t value) const {
  if (count_ == 0) return 0;
  const std::size_t end = std::min(index_of(value) + 1, buckets_.size());
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < end; ++i) seen += buckets_[i];
  return static_cast<double>(seen) / static_cast<double>(count_);
}

}  // namespace weir
