// SPDX-License-Identifier: Apache-2.0
//
// How fast something that was set aside comes back, and so how long until enough of it has.
//
// Thread-safety: update() from one thread at a time, time_for() from any.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include "agent/base/clock.h"

namespace weir::admit {

class ReleaseRate {
 public:
  static constexpr std::chrono::seconds kLeast{1};
  static constexpr std::chrono::seconds kMost{60};

  /// `released`: all that came back so far.
  void update(std::uint64_t released, TimePoint now);

  /// Until `amount` comes back, in whole seconds, kLeast..kMost. kLeast while no rate is known, and
  /// kMost when nothing comes back at all.
  [[nodiscard]] std::chrono::seconds time_for(std::uint64_t amount) const;

 private:
  struct Sample {
    std::uint64_t released = 0;
    TimePoint at;
  };
  std::optional<Sample> last_;
  std::atomic<double> per_second_{-1};  ///< below 0: not known
};

}  // namespace weir::admit
