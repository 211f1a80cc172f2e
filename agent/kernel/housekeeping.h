// SPDX-License-Identifier: Apache-2.0
//
// What the control thread does for the kernel side now and then: takes in connections that are not
// observed, and takes the census.
//
// Thread-safety: one thread.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

#include "agent/base/clock.h"
#include "agent/base/result.h"

namespace weir::kernel {

/// The chores themselves; both are tried again at their next time when they fail.
struct Chores {
  std::function<Status(TimePoint)> adopt;
  std::function<Status(TimePoint)> take_census;
};

/// When they are due: adoption at once, as the programs are attached by then, and before each
/// census; the census a second after the start, when what earlier agents left is in its place, and
/// every five seconds.
class Housekeeping {
 public:
  static constexpr Duration kFirstCensus = std::chrono::seconds(1);
  static constexpr Duration kCensusInterval = std::chrono::seconds(5);

  Housekeeping(Chores chores, TimePoint start)
      : chores_(std::move(chores)), next_census_(start + kFirstCensus) {}

  /// Does what is due; the first error of it.
  Status tick(TimePoint now);

 private:
  Chores chores_;
  bool adopted_once_ = false;
  TimePoint next_census_;
};

}  // namespace weir::kernel
