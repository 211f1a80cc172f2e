// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/latency_average.h"

#include <chrono>
#include <cmath>

namespace weir::balance {

void LatencyAverage::update(const kernel::Histogram& ttfb, TimePoint now) {
  // Fewer than before: the record was taken into use anew, everything in it is new.
  const bool restarted = ttfb.count() < last_.count();
  const auto mean = restarted ? ttfb.mean() : ttfb.since(last_).mean();
  last_ = ttfb;
  if (!mean) return;
  const double sample_ms = std::chrono::duration<double, std::milli>(*mean).count();
  if (!ms_ || restarted) {
    ms_ = sample_ms;
  } else {
    const std::chrono::duration<double> elapsed = now - last_samples_;
    const double alpha = 1 - std::exp(-(elapsed / std::chrono::duration<double>(tau_)));
    *ms_ += alpha * (sample_ms - *ms_);
  }
  last_samples_ = now;
}

}  // namespace weir::balance
