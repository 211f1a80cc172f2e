// SPDX-License-Identifier: Apache-2.0
//
// Time to first byte of one backend as an exponentially weighted average over time, from
// successive readings of its cumulative histogram. A failed connect is a sample, too, and a bad
// one: a backend that fails fast must not look fast.
//
// Thread-safety: belongs to one thread, the control thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "agent/base/clock.h"
#include "agent/kernel/histogram.h"

namespace weir::balance {

/// What a failed connect counts as.
inline constexpr std::chrono::seconds kFailurePenalty{5};

class LatencyAverage {
 public:
  explicit LatencyAverage(Duration tau) : tau_(tau) {}

  /// Takes in one reading: the first bytes seen and the connects failed so far. The mean of the
  /// samples since the last one enters with the weight 1 - exp(-t / tau), t being the time since
  /// the last samples: after a silence much longer than tau the new ones count alone. No new
  /// samples: the average is kept. The first reading enters whole, so that an agent which adopts
  /// the maps of an earlier one starts from their history; but without its failures, which may be
  /// of last week.
  void update(const kernel::Histogram& ttfb, std::uint64_t connect_failures, TimePoint now);

  /// Unset as long as no sample was ever seen.
  [[nodiscard]] std::optional<double> ms() const { return ms_; }

 private:
  const Duration tau_;
  /// What was counted at one reading: all that an average needs of a histogram.
  struct Totals {
    std::uint64_t samples = 0;
    std::chrono::nanoseconds sum{};
    std::uint64_t failures = 0;
  };
  [[nodiscard]] static std::optional<double> mean_ms(const Totals& totals);

  std::optional<Totals> last_;
  std::optional<double> ms_;
  TimePoint last_samples_{};
};

}  // namespace weir::balance
