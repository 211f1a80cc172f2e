// SPDX-License-Identifier: Apache-2.0
//
// Time to first byte of one backend as an exponentially weighted average over time, from
// successive readings of its cumulative histogram.
//
// Thread-safety: belongs to one thread, the control thread.
#pragma once

#include <optional>

#include "agent/base/clock.h"
#include "agent/kernel/histogram.h"

namespace weir::balance {

class LatencyAverage {
 public:
  explicit LatencyAverage(Duration tau) : tau_(tau) {}

  /// Takes in one reading. The mean of the samples since the last one enters with the weight
  /// 1 - exp(-t / tau), t being the time since the last samples: after a silence much longer than
  /// tau the new ones count alone. No new samples: the average is kept. The first reading enters
  /// whole, so that an agent which adopts the maps of an earlier one starts from their history.
  void update(const kernel::Histogram& ttfb, TimePoint now);

  /// Unset as long as no sample was ever seen.
  [[nodiscard]] std::optional<double> ms() const { return ms_; }

 private:
  const Duration tau_;
  kernel::Histogram last_;
  std::optional<double> ms_;
  TimePoint last_samples_{};
};

}  // namespace weir::balance
