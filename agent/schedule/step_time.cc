// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/step_time.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

namespace weir::schedule {

namespace {

// Batches that the mean of a size looks back on: through a noise of 15 %, to 2 %.
constexpr double kMostCount = 50;
// Until so many of a size ran, the least time counts: what disturbs a batch only prolongs it, and a
// size that was taken for slow is not soon seen again.
constexpr double kFewCount = 3;
// After that a batch counts as no further off than its mean times or over this.
constexpr double kMostOff = 2;
// So many in a row beyond that, and what was learned is of another time.
constexpr int kChanged = 6;
// Shorter than any clock can tell.
constexpr double kShortest = 1e-9;
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
  pools_.reserve(sizes_.size());
}

std::size_t StepTime::index_of(std::size_t size) const {
  if (size <= kExactSizes) return std::min(size, sizes_.size()) - 1;
  const auto found =
      std::lower_bound(sizes_.begin() + kExactSizes, sizes_.end(), size,
                       [](const Sizes& sizes, std::size_t wanted) { return sizes.last < wanted; });
  return static_cast<std::size_t>(std::min(found, sizes_.end() - 1) - sizes_.begin());
}

void StepTime::observe(std::size_t size, Duration took) {
  const std::size_t index = index_of(size);
  Sizes& sizes = sizes_[index];
  double observed_s = std::max(kShortest, seconds(took));
  if (sizes.count >= kFewCount) {
    if (has_changed(observed_s / sizes.seconds)) {
      *this = StepTime(sizes_.back().last);
      return observe(size, took);
    }
    observed_s = std::clamp(observed_s, sizes.seconds / kMostOff, sizes.seconds * kMostOff);
  }
  sizes.count = std::min(sizes.count + 1, kMostCount);
  sizes.size += (static_cast<double>(size) - sizes.size) / sizes.count;
  if (sizes.count == 1) {
    sizes.seconds = observed_s;
  } else if (sizes.count <= kFewCount) {
    sizes.seconds = std::min(sizes.seconds, observed_s);
  } else {
    sizes.seconds += (observed_s - sizes.seconds) / sizes.count;
  }
  latest_ = index;
  pool_means();
  fit_line();
  if (line_) draw_curve();
}

// A few in a row far off to the same side are no accidents.
bool StepTime::has_changed(double ratio) {
  const int side = ratio > kMostOff ? 1 : ratio < 1 / kMostOff ? -1 : 0;
  if (side * off_in_a_row_ <= 0) off_in_a_row_ = 0;
  off_in_a_row_ += side;
  return std::abs(off_in_a_row_) >= kChanged;
}

// Means that fall as the size rises can only be noise: such neighbours share their mean, until none
// falls any more (isotonic regression by pooling adjacent violators).
void StepTime::pool_means() {
  pools_.clear();
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    if (sizes_[i].count == 0) continue;
    Pool pool{i, sizes_[i].seconds, sizes_[i].count};
    while (!pools_.empty() && pools_.back().seconds > pool.seconds) {
      const Pool& below = pools_.back();
      const double count = below.count + pool.count;
      pool.seconds += (below.seconds - pool.seconds) * below.count / count;
      pool.count = count;
      pools_.pop_back();
    }
    pools_.push_back(pool);
  }
}

// The variance of a step is taken to grow as its time, as that of a sum of many parts does.
void StepTime::fit_line() {
  double w = 0, wn = 0, wt = 0, wnn = 0, wnt = 0;
  std::size_t seen = 0;
  for (const Sizes& sizes : sizes_) {
    if (sizes.count == 0) continue;
    ++seen;
    const double weight = sizes.count / sizes.seconds;
    w += weight;
    wn += weight * sizes.size;
    wt += weight * sizes.seconds;
    wnn += weight * sizes.size * sizes.size;
    wnt += weight * sizes.size * sizes.seconds;
  }
  if (seen < 2) return;
  const double mean_n = wn / w;
  const double mean_s = wt / w;
  double item_s = (wnt / w - mean_n * mean_s) / (wnn / w - mean_n * mean_n);
  item_s = std::clamp(item_s, 0.0, mean_s / mean_n);  // above that, fixed would be negative
  line_ = Line{mean_s - item_s * mean_n, item_s};
}

// Between two sizes that were seen the time goes straight from one to the other, below the least
// parallel to the line. Beyond the largest it continues as the line or as between the two largest,
// whichever rises less: judged kindly, so that it is tried.
void StepTime::draw_curve() {
  double below_n = 0;
  double below_s = 0;
  double slope = 0;
  std::size_t next = 0;
  const auto draw_up_to = [&](double size) {
    for (; next < sizes_.size(); ++next) {
      const double n = static_cast<double>(sizes_[next].last);
      if (n > size) return;
      sizes_[next].curve_s = std::max(0.0, below_s + (n - below_n) * slope);
    }
  };
  auto pool = pools_.begin();
  for (std::size_t i = 0; i < sizes_.size(); ++i) {
    const Sizes& sizes = sizes_[i];
    if (sizes.count == 0) continue;
    if (pool->last < i) ++pool;
    if (below_n == 0) below_s = pool->seconds - sizes.size * line_->item_s;
    slope = (pool->seconds - below_s) / (sizes.size - below_n);
    draw_up_to(sizes.size);
    below_n = sizes.size;
    below_s = pool->seconds;
  }
  slope = std::min(slope, line_->item_s);
  draw_up_to(static_cast<double>(sizes_.back().last));
}

std::size_t StepTime::largest_seen() const {
  return pools_.empty() ? 0 : sizes_[pools_.back().last].last;
}

double StepTime::seconds_of(std::size_t size) const {
  const double n = static_cast<double>(size);
  if (!line_) {
    const Sizes& known = sizes_[latest_];
    return known.seconds * std::max(1.0, n / known.size);
  }
  const std::size_t index = index_of(size);
  const Sizes& sizes = sizes_[index];
  if (size == sizes.last || index == 0) return sizes.curve_s;
  const Sizes& below = sizes_[index - 1];
  const double share =
      (n - static_cast<double>(below.last)) / static_cast<double>(sizes.last - below.last);
  return below.curve_s + share * (sizes.curve_s - below.curve_s);
}

std::optional<Duration> StepTime::predict(std::size_t size) const {
  if (pools_.empty()) return std::nullopt;
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds_of(size)));
}

std::size_t StepTime::knee(std::size_t available, double arrivals_per_second) const {
  if (!line_) return available;
  // Tries the ends of all groups: within one the time goes straight, and there more is better.
  const auto per_second = [this](std::size_t size) {
    return static_cast<double>(size) / std::max(seconds_of(size), kShortest);
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
