// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/histogram.h"

#include <algorithm>
#include <cmath>

namespace weir::kernel {
namespace {

std::chrono::nanoseconds nanoseconds(std::uint64_t value) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(value));
}

}  // namespace

void Histogram::add(const weir_hist& per_cpu) {
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    buckets_[i].count += per_cpu.bucket[i].count;
    buckets_[i].sum_ns += per_cpu.bucket[i].sum_ns;
  }
}

std::uint64_t Histogram::count() const {
  std::uint64_t total = 0;
  for (const weir_hist_bucket& bucket : buckets_) total += bucket.count;
  return total;
}

std::chrono::nanoseconds Histogram::sum() const {
  std::uint64_t total = 0;
  for (const weir_hist_bucket& bucket : buckets_) total += bucket.sum_ns;
  return nanoseconds(total);
}

std::optional<std::chrono::nanoseconds> Histogram::mean() const {
  const std::uint64_t samples = count();
  if (samples == 0) return std::nullopt;
  return sum() / static_cast<std::int64_t>(samples);
}

std::optional<std::chrono::nanoseconds> Histogram::quantile(double q) const {
  const std::uint64_t samples = count();
  if (samples == 0) return std::nullopt;
  // The rank of the sample, counted from 1: the smallest that has a share of `q` at or below it.
  const double wanted = std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(samples));
  const std::uint64_t rank = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(wanted));
  std::uint64_t seen = 0;
  for (const weir_hist_bucket& bucket : buckets_) {
    seen += bucket.count;
    if (seen >= rank) return nanoseconds(bucket.sum_ns / bucket.count);
  }
  return std::nullopt;
}

Histogram Histogram::since(const Histogram& earlier) const {
  // A kernel program may have been between the two fields of a bucket at the earlier reading, and
  // a record may have begun anew in between: never below zero.
  const auto minus = [](std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; };
  Histogram difference;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    difference.buckets_[i].count = minus(buckets_[i].count, earlier.buckets_[i].count);
    difference.buckets_[i].sum_ns = minus(buckets_[i].sum_ns, earlier.buckets_[i].sum_ns);
  }
  return difference;
}

std::chrono::nanoseconds Histogram::upper_bound(std::size_t i) {
  // Mirrors weir_hist_index(): bucket i begins at (SUB + sub) steps of 1/SUB us, times 2^octave.
  const std::uint64_t step_ns = 1000 / WEIR_HIST_SUB;
  const std::uint64_t octave = i / WEIR_HIST_SUB;
  const std::uint64_t sub = i % WEIR_HIST_SUB;
  return nanoseconds(((WEIR_HIST_SUB + sub + 1) * step_ns) << octave);
}

}  // namespace weir::kernel
