// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/batch_former.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace weir::schedule {

namespace {

using std::chrono::milliseconds;

// Arrivals that the average gap looks back on: enough to tell a trickle from a stream, few enough
// to follow a burst within one batch of the default size.
constexpr std::uint32_t kGapArrivals = 16;
// The same for the rate that a batch size must sustain.
constexpr std::uint32_t kRateArrivals = 256;
// What comes after longer than this, and no window is as long, is another stream.
constexpr Duration kPause = std::chrono::seconds(1);
// Every so many batches that could be larger than the best known size, one is, by a quarter and by
// its double in turn, so that it is seen whether it still is the best; the more seldom, the longer
// it was. The last is less than one in a hundred even of the requests of twice as large batches.
constexpr std::uint32_t kExploreFirst = 256;
constexpr std::uint32_t kExploreLast = 2048;
// One by one, requests may take this share of an instance's time before throughput counts at all.
constexpr double kQuietLoad = 0.5;

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

Duration duration(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

BatchOptions normalized(BatchOptions options) {
  if (options.mode == BatchMode::kByLoad && options.levels.empty()) {
    options.levels = default_batch_levels();
  }
  options.preferred_batch_size = std::min(options.preferred_batch_size, options.max_batch_size);
  return options;
}

}  // namespace

std::vector<BatchLevel> default_batch_levels() {
  return {{10, 10, milliseconds(100)}, {50, 50, milliseconds(50)}, {{}, 100, milliseconds(10)}};
}

std::string_view to_string(BatchCause cause) {
  switch (cause) {
    case BatchCause::kFull:
      return "full";
    case BatchCause::kPreferred:
      return "preferred";
    case BatchCause::kTimeout:
      return "timeout";
    case BatchCause::kDeadline:
      return "deadline";
    case BatchCause::kNoGain:
      return "no_gain";
  }
  return "unknown";
}

BatchFormer::BatchFormer(BatchOptions options)
    : options_(normalized(std::move(options))),
      step_time_(options_.max_batch_size),
      explore_every_(kExploreFirst) {}

void BatchFormer::arrived(TimePoint now) {
  if (options_.mode != BatchMode::kLearned) return;
  if (last_arrival_ && now - *last_arrival_ > std::max(options_.timeout, kPause)) {
    // A night in the averages would be an average of hundreds of requests' worth of the morning.
    arrivals_ = rate_arrivals_ = 0;
    gap_s_ = slow_gap_s_ = 0;
  } else if (last_arrival_) {
    const double gap_s = std::max(0.0, seconds(now - *last_arrival_));
    arrivals_ = std::min(arrivals_ + 1, kGapArrivals);
    gap_s_ += (gap_s - gap_s_) / arrivals_;
    rate_arrivals_ = std::min(rate_arrivals_ + 1, kRateArrivals);
    slow_gap_s_ += (gap_s - slow_gap_s_) / rate_arrivals_;
  }
  last_arrival_ = now;
}

BatchFormer::Wish BatchFormer::wish(std::size_t waiting) const {
  switch (options_.mode) {
    case BatchMode::kFixed: {
      const bool prefers = options_.preferred_batch_size < options_.max_batch_size;
      return {options_.preferred_batch_size, options_.max_batch_size,
              prefers ? BatchCause::kPreferred : BatchCause::kFull, options_.timeout};
    }
    case BatchMode::kByLoad: {
      const auto level =
          std::find_if(options_.levels.begin(), options_.levels.end() - 1,
                       [&](const BatchLevel& l) { return waiting < l.below_waiting.value_or(0); });
      const std::size_t full = std::min(level->max_batch_size, options_.max_batch_size);
      return {full, full, BatchCause::kFull, level->timeout};
    }
    case BatchMode::kLearned:
      break;
  }
  return {options_.max_batch_size, options_.max_batch_size, BatchCause::kFull, options_.timeout};
}

std::optional<BatchFormer::Start> BatchFormer::start(const BatchQueue& queue, TimePoint now) const {
  if (queue.waiting == 0) return std::nullopt;
  const Wish wish = this->wish(queue.waiting);
  if (queue.waiting >= wish.largest) return Start{now, BatchCause::kFull};
  if (queue.waiting >= wish.full) return Start{now, wish.why};

  Start start{queue.oldest + wish.timeout, BatchCause::kTimeout};
  if (options_.mode == BatchMode::kLearned) {
    const auto limit = learned_limit(queue.waiting);
    if (!limit || *limit < start.at) start = {limit.value_or(now), BatchCause::kNoGain};
  }
  if (queue.deadline) {
    // One more may come, and the batch must still be in time. How long it takes, the first will
    // tell.
    const auto step = step_time_.predict(std::min(queue.waiting + 1, wish.largest));
    const TimePoint latest = step ? *queue.deadline - *step : now;
    if (latest < start.at) start = {latest, BatchCause::kDeadline};
  }
  return start;
}

BatchDecision BatchFormer::decide(const BatchQueue& queue, TimePoint now) {
  const auto start = this->start(queue, now);
  if (!start) return {};
  if (start->at > now) return {.take = 0, .cause = start->cause, .look_again = start->at};
  std::size_t size = std::min(queue.waiting, wish(queue.waiting).largest);
  if (options_.mode == BatchMode::kLearned) size = learned_size(queue, size, now);
  return {.take = size, .cause = start->cause, .look_again = std::nullopt};
}

// When the next request should have come for the waiting to pay; unset: it does not pay.
std::optional<TimePoint> BatchFormer::learned_limit(std::size_t waiting) const {
  if (!step_time_.line() || arrivals_ < kGapArrivals / 2) return std::nullopt;
  const double n = static_cast<double>(waiting);
  const double now_s = step_time_.seconds_of(waiting);
  const double larger_s = step_time_.seconds_of(waiting + 1);
  const double gain_s = now_s + step_time_.seconds_of(1) - larger_s - n * (larger_s - now_s);
  const double longest_gap_s = gain_s / (n + 1);
  if (gap_s_ >= longest_gap_s) return std::nullopt;
  // A gap already longer than that tells that the average holds no more.
  return *last_arrival_ + duration(longest_gap_s);
}

std::size_t BatchFormer::learned_size(const BatchQueue& queue, std::size_t available,
                                      TimePoint now) {
  std::size_t size = best_size(queue, available);
  if (!queue.deadline || !step_time_.line()) return size;
  // The most urgent one goes without the company that would make it late, if it can be in time.
  const auto late = [&](std::size_t n) {
    return now + step_time_.predict(n).value_or(Duration::zero()) > *queue.deadline;
  };
  if (late(1)) return size;
  while (late(size)) size = size / 2;
  return size;
}

/// Of so many that wait, how many to take, at so many arrivals per second.
std::size_t BatchFormer::size_for(std::size_t available, double load) const {
  const std::size_t size = step_time_.knee(available, load);
  if (!step_time_.line()) return size;
  // Where the members cost more than the batch, together they all end late, one by one only the
  // last of them does.
  const double one_s = step_time_.seconds_of(1);
  const double mean_end_s = one_s * static_cast<double>(size + 1) / 2;
  return load * one_s < kQuietLoad && mean_end_s < step_time_.seconds_of(size) ? 1 : size;
}

std::size_t BatchFormer::best_size(const BatchQueue& queue, std::size_t available) {
  // Sizes that were never tried are approached by doubling: one that is far too large costs more
  // than the few steps on the way there.
  available = std::min(available, std::max<std::size_t>(1, 2 * step_time_.largest_seen()));
  // With more waiting than a batch holds, throughput alone counts.
  const double load = queue.waiting > options_.max_batch_size
                          ? std::numeric_limits<double>::infinity()
                          : (slow_gap_s_ > 0 ? 1 / slow_gap_s_ : 0);
  const std::size_t size = size_for(available, load);
  if (explored_) {
    // Was the other size worth it? Then there may be more to find soon.
    const bool better = size_for(*explored_, load) == *explored_;
    explore_every_ = better ? kExploreFirst : std::min(explore_every_ * 2, kExploreLast);
    explored_.reset();
  }
  std::size_t other = (size + 1) / 2;
  if (step_time_.line()) other = std::min(available, explore_far_ ? 2 * size : size + 1 + size / 4);
  if (other == size || ++since_explored_ < explore_every_) return size;
  since_explored_ = 0;
  explored_ = other;
  explore_far_ = !explore_far_;
  return other;
}

}  // namespace weir::schedule
