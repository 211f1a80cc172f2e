// SPDX-License-Identifier: Apache-2.0
//
// Timers on a FakeClock: what is armed happens, in order, when a test lets time pass.
//
// Thread-compatible: simulations have one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "agent/upstream/timers.h"
#include "tests/fixtures/fake_clock.h"

namespace weir::upstream {

class SimulatedTimers final : public Timers {
 public:
  explicit SimulatedTimers(FakeClock& clock) : clock_(clock) {}

  Id arm(TimePoint at, std::function<void()> action) override {
    const Id id{at, next_number_++};
    armed_.emplace(id, std::move(action));
    return id;
  }

  void cancel(const Id& id) override { armed_.erase(id); }

  /// Moves the clock from event to event, those that they arm included, and on to the end of `by`.
  void pass(Duration by) {
    const TimePoint end = clock_.now() + by;
    while (!armed_.empty() && armed_.begin()->first.when <= end) {
      auto first = armed_.extract(armed_.begin());
      if (first.key().when > clock_.now()) clock_.advance(first.key().when - clock_.now());
      first.mapped()();
    }
    clock_.advance(end - clock_.now());
  }

  [[nodiscard]] std::size_t armed() const { return armed_.size(); }

 private:
  FakeClock& clock_;
  std::map<Id, std::function<void()>> armed_;
  std::uint64_t next_number_ = 1;
};

}  // namespace weir::upstream
