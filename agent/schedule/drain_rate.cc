// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/drain_rate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace weir::schedule {

namespace {

constexpr std::chrono::seconds kShortest{1};
// Clients of the OpenAI SDKs ignore a Retry-After above 60 s.
constexpr std::chrono::seconds kLongest{60};
constexpr std::chrono::seconds kUnmeasured{5};

}  // namespace

DrainRate::DrainRate(const Clock& clock, Duration time_constant)
    : clock_(clock), time_constant_s_(std::chrono::duration<double>(time_constant).count()) {}

DrainRate::Average DrainRate::at(TimePoint now) const {
  if (!busy_since_ || now <= *busy_since_) {
    return average_;
  }
  const double elapsed_s = std::chrono::duration<double>(now - *busy_since_).count();
  const double keep = std::exp(-elapsed_s / time_constant_s_);
  // The integral of the weight over the elapsed time, so that events / seconds is unbiased from
  // the first completion on.
  return {average_.events * keep, average_.seconds * keep + time_constant_s_ * (1 - keep)};
}

void DrainRate::set_busy(bool busy) {
  if (busy == busy_since_.has_value()) {
    return;
  }
  const TimePoint now = clock_.now();
  average_ = at(now);
  busy_since_ = busy ? std::optional(now) : std::nullopt;
}

void DrainRate::completed() {
  if (!busy_since_) {
    return;
  }
  const TimePoint now = clock_.now();
  average_ = at(now);
  busy_since_ = now;
  average_.events += 1;
}

std::optional<double> DrainRate::per_second() const {
  const Average now = at(clock_.now());
  if (now.events <= 0 || now.seconds <= 0) {
    return std::nullopt;
  }
  return now.events / now.seconds;
}

std::chrono::seconds DrainRate::retry_after(std::size_t queued) const {
  const std::optional<double> rate = per_second();
  if (!rate) {
    return kUnmeasured;
  }
  const double seconds = std::ceil(static_cast<double>(queued) / *rate);
  if (seconds >= static_cast<double>(kLongest.count())) {
    return kLongest;
  }
  return std::max(kShortest, std::chrono::seconds(static_cast<std::int64_t>(seconds)));
}

}  // namespace weir::schedule
