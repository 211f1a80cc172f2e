// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/step_time.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace weir::schedule {

namespace {

// What one batch later is left of an observation in the line: a memory of some 50 batches.
constexpr double kKeep = 0.98;
// After so many batches nothing is left of it; 0.98^250 is 0.006.
constexpr std::uint64_t kForgotten = 250;
// A size that comes often must not drown the others, which alone tell the slope.
constexpr double kMostWeight = 20;
// Batches that the mean of a size looks back on.
constexpr double kMostCount = 50;
// An observation counts as no further off than so many usual deviations. Huber's constant is 1.5
// standard deviations; this is about that, in mean deviations of a noise with a long tail.
constexpr double kClip = 3;
constexpr double kDeviationGain = 0.05;
constexpr double kMostDeviations = 6;
constexpr double kLeastDeviation = 1e-3;
// So many in a row beyond the clip, and what was learned is of another time.
constexpr int kChanged = 6;
// Keeps weights finite; shorter than any clock can tell.
constexpr double kShortest = 1e-9;
constexpr double kFewObservations = 3;
// A size leaves the line when its mean is this many standard errors off it.
constexpr double kStandardErrors = 4;
// Throughput to spare, relative to that of the best size, that a smaller one must leave. Nearer to
// 1, batches grow for nothing at low load; with less, queues at high load grow by as much. By
// simulation (tests/unit/schedule/batch_simulation_test.cc).
constexpr double kSpareKept = 0.85;
constexpr std::size_t kExactSizes = 64;
constexpr std::size_t kPerOctave = 8;

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

StepTime::StepTime(std::size_t largest) {
  for (std::size_t last = 0; last < largest;) {
    const std::size_t step = last < kExactSizes ? 1 : std::bit_floor(last) / kPerOctave;
    last = std::min(last + step, largest);
    sizes_.push_back({.last = last});
  }
  seen_.reserve(sizes_.size());
}

std::size_t StepTime::index_of(std::size_t size) const {
  if (size <= kExactSizes) return std::min(size, sizes_.size()) - 1;
  const auto found =
      std::lower_bound(sizes_.begin() + kExactSizes, sizes_.end(), size,
                       [](const Sizes& sizes, std::size_t wanted) { return sizes.last < wanted; });
  return static_cast<std::size_t>(std::min(found, sizes_.end() - 1) - sizes_.begin());
}

double StepTime::weight_of(const Sizes& sizes) const {
  const std::uint64_t age = observed_ - sizes.seen;
  if (age > kForgotten) return 0;
  static const auto kKept = [] {
    std::array<double, kForgotten + 1> kept{1};
    for (std::size_t i = 1; i < kept.size(); ++i) kept[i] = kept[i - 1] * kKeep;
    return kept;
  }();
  return sizes.weight * kKept[age];
}

void StepTime::observe(std::size_t size, Duration took) {
  const std::size_t index = index_of(size);
  double observed_s = std::max(kShortest, seconds(took));
  if (observed_ == 0) {
    deviation_ = std::sqrt(observed_s) / 2;
  } else {
    const double expected_s = seconds_of(size);
    const double off_s = observed_s - expected_s;
    // Of a size that is new, the prediction says little: it may be anything up to its double.
    const bool is_new = sizes_[index].count < kFewObservations;
    const double usual_s = deviation_ * std::sqrt(expected_s);
    const double most_s = std::max(kClip * usual_s, is_new ? expected_s : 0);
    if (!is_new && has_changed(off_s, most_s)) {
      *this = StepTime(sizes_.back().last);
      return observe(size, took);
    }
    observed_s = expected_s + std::clamp(off_s, -most_s, most_s);
    if (!is_new) {
      const double counted_s = std::min(std::abs(off_s), kMostDeviations * usual_s);
      deviation_ += kDeviationGain * (counted_s / std::sqrt(expected_s) - deviation_);
    }
    // A floor, so that perfectly regular batches do not end the learning.
    deviation_ = std::max(deviation_, kLeastDeviation * std::sqrt(expected_s));
  }
  ++observed_;
  Sizes& sizes = sizes_[index];
  if (sizes.count == 0) seen_.insert(std::lower_bound(seen_.begin(), seen_.end(), index), index);
  latest_ = index;
  sizes.count = std::min(sizes.count + 1, kMostCount);
  sizes.size += (static_cast<double>(size) - sizes.size) / sizes.count;
  sizes.seconds += (observed_s - sizes.seconds) / sizes.count;
  sizes.weight = weight_of(sizes) + 1;
  sizes.seen = observed_;
  fit_line();
  derive_offsets();
}

// A few in a row far off to the same side are no accidents.
bool StepTime::has_changed(double off_s, double most_s) {
  if (std::abs(off_s) <= most_s) {
    off_in_a_row_ = 0;
    return false;
  }
  if ((off_s > 0) != (off_in_a_row_ > 0)) off_in_a_row_ = 0;
  off_in_a_row_ += off_s > 0 ? 1 : -1;
  return std::abs(off_in_a_row_) >= kChanged;
}

// The variance of a step is taken to grow as its time, as that of a sum of many parts does.
void StepTime::fit_line() {
  double w = 0, wn = 0, wt = 0;
  for (const std::size_t index : seen_) {
    const Sizes& sizes = sizes_[index];
    const double weight = std::min(weight_of(sizes), kMostWeight) / sizes.seconds;
    w += weight;
    wn += weight * sizes.size;
    wt += weight * sizes.seconds;
  }
  const double mean_n = wn / w;
  const double mean_t = wt / w;
  double nn = 0, nt = 0;
  for (const std::size_t index : seen_) {
    const Sizes& sizes = sizes_[index];
    const double weight = std::min(weight_of(sizes), kMostWeight) / sizes.seconds;
    nn += weight * (sizes.size - mean_n) * (sizes.size - mean_n);
    nt += weight * (sizes.size - mean_n) * (sizes.seconds - mean_t);
  }
  // Less than one observation a twentieth of the mean away: no slope. An earlier one stands.
  const bool tells_slope = nn * mean_t > std::max(0.25, mean_n * mean_n / 400);
  if (!tells_slope && !line_) return;
  double item_s = tells_slope ? nt / nn : line_->item_s;
  item_s = std::clamp(item_s, 0.0, mean_t / mean_n);  // above that, fixed would be negative
  line_ = Line{mean_t - item_s * mean_n, item_s};
}

// Between two sizes that were seen the time goes straight from one to the other. Beyond the largest
// it continues by the line or by the two largest, whichever rises less: judged kindly, so that it
// is tried.
void StepTime::derive_offsets() {
  if (!line_) return;
  const auto on_line = [this](double n) { return line_->fixed_s + n * line_->item_s; };
  double below_n = 0;
  double below_s = 0;
  std::size_t next = 0;
  const auto fill = [&](std::size_t end, double slope) {
    for (; next < end; ++next) {
      const double n = static_cast<double>(sizes_[next].last);
      sizes_[next].off_line_s = below_s + (n - below_n) * slope - on_line(n);
    }
  };
  double slope = line_->item_s;
  for (const std::size_t index : seen_) {
    Sizes& sizes = sizes_[index];
    const double off = sizes.seconds - on_line(sizes.size);
    const double noise = kStandardErrors * deviation_ * std::sqrt(sizes.seconds / sizes.count);
    sizes.off_line_s = std::abs(off) > noise ? off : 0;
    const double own_s = on_line(sizes.size) + sizes.off_line_s;
    if (below_n > 0) {
      slope = (own_s - below_s) / (sizes.size - below_n);
    } else {
      below_s = own_s - sizes.size * slope;  // nothing smaller was seen: parallel to the line
    }
    fill(index, slope);
    below_n = sizes.size;
    below_s = own_s;
    next = index + 1;
  }
  fill(sizes_.size(), std::clamp(slope, 0.0, line_->item_s));
}

std::size_t StepTime::largest_seen() const { return seen_.empty() ? 0 : sizes_[seen_.back()].last; }

double StepTime::seconds_of(std::size_t size) const {
  const double n = static_cast<double>(size);
  if (!line_) {
    const Sizes& known = sizes_[latest_];
    return known.seconds * std::max(1.0, n / known.size);
  }
  return std::max(0.0, line_->fixed_s + n * line_->item_s + sizes_[index_of(size)].off_line_s);
}

std::optional<Duration> StepTime::predict(std::size_t size) const {
  if (observed_ == 0) return std::nullopt;
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds_of(size)));
}

std::size_t StepTime::knee(std::size_t available, double arrivals_per_second) const {
  if (!line_) return available;
  // Tries the ends of all groups: within one the line decides, and there more is better.
  const auto per_second = [this](std::size_t size) {
    return static_cast<double>(size) / std::max(seconds_of(size), 1e-9);
  };
  const std::size_t last = index_of(available);
  double best = per_second(available);
  for (std::size_t i = 0; i < last; ++i) best = std::max(best, per_second(sizes_[i].last));
  const double load = std::min(arrivals_per_second, best);
  const double enough = load + kSpareKept * (best - load);
  for (std::size_t i = 0; i < last; ++i) {
    if (per_second(sizes_[i].last) >= enough) return sizes_[i].last;
  }
  return available;
}

}  // namespace weir::schedule
