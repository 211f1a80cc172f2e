// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/service_rate.h"

#include <algorithm>
#include <cmath>

namespace weir::schedule {

namespace {

constexpr std::chrono::seconds kShortest{1};
// Clients of the OpenAI SDKs ignore a Retry-After above 60 s.
constexpr std::chrono::seconds kLongest{60};
constexpr std::chrono::seconds kUnmeasured{5};
// Longer predictions say no more, and would not fit a Duration for ever.
constexpr double kLongestPredictionS = 1e6;

Duration seconds_of(double seconds) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(seconds, kLongestPredictionS)));
}

}  // namespace

ServiceRate::ServiceRate(const Clock& clock, Duration time_constant)
    : clock_(clock), time_constant_s_(std::chrono::duration<double>(time_constant).count()) {}

ServiceRate::Average ServiceRate::at(TimePoint now) const {
  if (!busy_since_ || now <= *busy_since_) return average_;
  const double elapsed_s = std::chrono::duration<double>(now - *busy_since_).count();
  const double keep = std::exp(-elapsed_s / time_constant_s_);
  // Of the busy time the integral of the weight over the elapsed time, so that the quotients are
  // unbiased from the first completion on.
  return {average_.requests * keep, average_.tokens * keep, average_.service_seconds * keep,
          average_.busy_seconds * keep + time_constant_s_ * (1 - keep)};
}

void ServiceRate::set_busy(bool busy) {
  if (busy == busy_since_.has_value()) return;
  const TimePoint now = clock_.now();
  average_ = at(now);
  busy_since_ = busy ? std::optional(now) : std::nullopt;
}

void ServiceRate::completed(std::uint64_t estimated_tokens, Duration service) {
  if (!busy_since_) return;
  const TimePoint now = clock_.now();
  average_ = at(now);
  busy_since_ = now;
  average_.requests += 1;
  average_.tokens += static_cast<double>(estimated_tokens);
  average_.service_seconds += std::chrono::duration<double>(service).count();
}

std::optional<double> ServiceRate::rate(double Average::*events) const {
  const Average now = at(clock_.now());
  if (now.*events <= 0 || now.busy_seconds <= 0) return std::nullopt;
  return now.*events / now.busy_seconds;
}

std::optional<double> ServiceRate::requests_per_second() const { return rate(&Average::requests); }

std::optional<double> ServiceRate::tokens_per_second() const { return rate(&Average::tokens); }

std::optional<Duration> ServiceRate::drain_time(const QueueLoad& load) const {
  const auto requests_rate = requests_per_second();
  if (!requests_rate) return std::nullopt;
  if (const auto tokens_rate = tokens_per_second()) {
    return seconds_of(static_cast<double>(load.tokens) / *tokens_rate);
  }
  return seconds_of(static_cast<double>(load.requests) / *requests_rate);
}

std::optional<Duration> ServiceRate::service_time(std::uint64_t estimated_tokens) const {
  if (average_.requests <= 0) return std::nullopt;
  double seconds = average_.service_seconds / average_.requests;
  if (average_.tokens > 0) {
    seconds = std::min(seconds, average_.service_seconds / average_.tokens *
                                    static_cast<double>(estimated_tokens));
  }
  return seconds_of(seconds);
}

std::chrono::seconds retry_after(std::optional<Duration> wait) {
  if (!wait) return kUnmeasured;
  return std::clamp(std::chrono::ceil<std::chrono::seconds>(*wait), kShortest, kLongest);
}

}  // namespace weir::schedule
