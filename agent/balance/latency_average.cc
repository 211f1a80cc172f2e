// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/latency_average.h"

#include <cmath>

namespace weir::balance {
namespace {

using Milliseconds = std::chrono::duration<double, std::milli>;

/// The mean of the first bytes and of the failures with their penalty; unset without either.
std::optional<double> mean_ms(const kernel::Histogram& ttfb, std::uint64_t failures) {
  const auto samples = static_cast<double>(ttfb.count() + failures);
  if (samples == 0) return std::nullopt;
  const Milliseconds sum =
      Milliseconds(ttfb.sum()) + Milliseconds(kFailurePenalty) * static_cast<double>(failures);
  return sum.count() / samples;
}

}  // namespace

void LatencyAverage::update(const kernel::Histogram& ttfb, std::uint64_t connect_failures,
                            TimePoint now) {
  // Fewer than before: the record was taken into use anew, everything in it is new.
  const bool restarted =
      last_ && (ttfb.count() < last_->count() || connect_failures < last_failures_);
  std::optional<double> sample_ms;
  if (!last_) {
    sample_ms = mean_ms(ttfb, 0);
  } else if (restarted) {
    sample_ms = mean_ms(ttfb, connect_failures);
  } else {
    sample_ms = mean_ms(ttfb.since(*last_), connect_failures - last_failures_);
  }
  last_ = ttfb;
  last_failures_ = connect_failures;
  if (!sample_ms) return;
  if (!ms_ || restarted) {
    ms_ = sample_ms;
  } else {
    const std::chrono::duration<double> elapsed = now - last_samples_;
    const double alpha = 1 - std::exp(-(elapsed / std::chrono::duration<double>(tau_)));
    *ms_ += alpha * (*sample_ms - *ms_);
  }
  last_samples_ = now;
}

}  // namespace weir::balance
