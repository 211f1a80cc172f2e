// SPDX-License-Identifier: Apache-2.0
//
// Keeps a storm of refusals from becoming a storm of log lines: the first of each reason is logged,
// then one line in ten seconds that stands for all since.
//
// Thread-safety: belongs to one I/O thread.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "agent/base/clock.h"
#include "agent/schedule/refusal.h"

namespace weir::serve {

class RefusalLog {
 public:
  static constexpr std::chrono::seconds kPeriod{10};

  /// How many refusals for this reason, this one included, the line stands for that is due now;
  /// unset: none is.
  [[nodiscard]] std::optional<std::uint64_t> note(schedule::RefusalReason reason, TimePoint now) {
    Entry& entry = entries_[static_cast<std::size_t>(reason)];
    ++entry.since;
    if (entry.logged_at.has_value() && now - *entry.logged_at < kPeriod) return std::nullopt;
    entry.logged_at = now;
    return std::exchange(entry.since, 0);
  }

 private:
  struct Entry {
    std::uint64_t since = 0;  ///< the last line
    std::optional<TimePoint> logged_at;
  };
  std::array<Entry, schedule::kRefusalReasons> entries_{};
};

}  // namespace weir::serve
