// SPDX-License-Identifier: Apache-2.0
//
// The circuit breaker of one backend, fed by what the kernel counted since the last look:
//
//   closed ──N failed connects in a row──► open ──open time over──► half-open ──success──► closed
//                                           ▲                           │
//                                           └────────one failure────────┘  (open time doubled)
//
// It runs in user space and reacts at the next control tick. It is meant to move into the
// backend's kernel word, where the third failed connect itself will open it; user space will then
// only read the state. That is why it knows nothing but counters and time.
//
// Thread-safety: belongs to one thread, the control thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "agent/base/clock.h"

namespace weir::health {

enum class BreakerState {
  kClosed,    ///< takes connections
  kOpen,      ///< takes none until its time is over
  kHalfOpen,  ///< takes a few, to see whether it works again
};
[[nodiscard]] std::string_view to_string(BreakerState state);

/// A source of numbers evenly spread over [0, 1).
using Uniform = std::function<double()>;

struct BreakerOptions {
  std::uint32_t open_after_failures = 3;
  /// First open time; doubles at each failure in half-open, up to max_open.
  Duration open = std::chrono::seconds(5);
  Duration max_open = std::chrono::seconds(60);
  /// Up to this part is added to each open time at random, so that agents do not return in step.
  double jitter_ratio = 0.2;
};

/// Cumulative counts of one backend, as read from the kernel.
struct ConnectCounts {
  std::uint32_t consecutive_failures = 0;  ///< since the last success
  std::uint64_t established = 0;
  std::uint64_t failures = 0;
};

class Breaker {
 public:
  /// A change of state.
  struct Change {
    BreakerState from = BreakerState::kClosed;
    BreakerState to = BreakerState::kClosed;
    std::uint32_t consecutive_failures = 0;
    Duration open_for{};  ///< of an opening
  };

  explicit Breaker(const BreakerOptions& options) : options_(options) {}

  /// Takes in one reading. Unset when the state stays as it was. A success and a failure between
  /// two readings of a half-open breaker count as a failure. Counts that went back (the record was
  /// given to another backend) start afresh.
  std::optional<Change> observe(const ConnectCounts& counts, TimePoint now, const Uniform& uniform);

  [[nodiscard]] BreakerState state() const { return state_; }

 private:
  Change open(const ConnectCounts& counts, TimePoint now, const Uniform& uniform);
  Change move_to(BreakerState to, const ConnectCounts& counts);

  const BreakerOptions options_;
  BreakerState state_ = BreakerState::kClosed;
  std::uint32_t relapses_ = 0;  ///< failures in half-open since it was last closed
  TimePoint open_until_{};
  ConnectCounts at_change_{};  ///< what was counted when the state last changed
};

}  // namespace weir::health
