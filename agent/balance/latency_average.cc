// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/latency_average.h"

#include <cmath>

namespace weir::balance {

/// The mean of the first bytes and of the failures with their penalty; unset without either.
std::optional<double> LatencyAverage::mean_ms(const Totals& totals) {
  using Milliseconds = std::chrono::duration<double, std::milli>;
  const auto samples = static_cast<double>(totals.samples + totals.failures);
  if (samples == 0) return std::nullopt;
  const Milliseconds sum = Milliseconds(totals.sum) +
                           Milliseconds(kFailurePenalty) * static_cast<double>(totals.failures);
  return sum.count() / samples;
}

void LatencyAverage::update(const kernel::Histogram& ttfb, std::uint64_t connect_failures,
                            TimePoint now) {
  const Totals totals{ttfb.count(), ttfb.sum(), connect_failures};
  // Fewer than before: the record was taken into use anew, everything in it is new.
  const bool restarted =
      last_ && (totals.samples < last_->samples || totals.failures < last_->failures);
  Totals added = totals;
  if (!last_) {
    added.failures = 0;
  } else if (!restarted) {
    added = {totals.samples - last_->samples, totals.sum - last_->sum,
             totals.failures - last_->failures};
  }
  last_ = totals;
  const auto sample_ms = mean_ms(added);
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
