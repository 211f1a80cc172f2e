// SPDX-License-Identifier: Apache-2.0
//
// How long a batch takes by its size, learned from batches that ran: a curve through the mean of
// each size seen, which never falls as the size rises. Whatever the shape (a cache that overflows,
// tiles that fill up), no form is assumed; sizes not seen are judged by their neighbours. A line
// step_time(n) = fixed + n * item sums it up.
//
// A size forgets by batches of that size, so that what was once seen to be slow is not tried again
// for no reason. A single slow batch (a page fault, a throttled CPU) moves little; after a lasting
// change everything is learned anew.
//
// Thread-compatible: the owner locks. Owns its numbers. Cannot fail: what is not known is unset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "agent/base/clock.h"

namespace weir::schedule {

class StepTime {
 public:
  /// `largest`: no batch is larger; >= 1. Sizes above 64 share a mean with their neighbours.
  explicit StepTime(std::size_t largest);

  /// A batch of `size` members, 1..largest, took this long.
  void observe(std::size_t size, Duration took);

  /// Unset until the first observation. While all batches had one size, larger ones are taken to
  /// cost in proportion and smaller ones as much: an upper bound of either.
  [[nodiscard]] std::optional<Duration> predict(std::size_t size) const;

  struct Line {
    double fixed_s = 0;  ///< of a batch, whatever its size; >= 0
    double item_s = 0;   ///< of each member; >= 0
  };
  /// Unset until batches of two sizes were seen.
  [[nodiscard]] std::optional<Line> line() const { return line_; }

  /// predict() in seconds. Precondition: line().
  [[nodiscard]] double seconds_of(std::size_t size) const;

  /// The largest size seen, or of its group the largest; 0 before the first observation.
  [[nodiscard]] std::size_t largest_seen() const;

  /// The smallest size up to `available` (1..largest) that leaves nearly the spare throughput of
  /// the best one, at `arrivals_per_second`: growing further buys next to nothing but latency.
  /// `available` itself while there is no line.
  [[nodiscard]] std::size_t knee(std::size_t available, double arrivals_per_second) const;

 private:
  /// What is known about one size, or a few neighbouring ones.
  struct Sizes {
    std::size_t last = 0;  ///< the largest of these
    double count = 0;      ///< observations, up to what the means look back on; 0: never seen
    double size = 0;       ///< mean
    double seconds = 0;    ///< mean
    double curve_s = 0;    ///< what the curve says of `last`; derived from all of the above
  };
  /// Sizes seen, neighbours among those, that are taken to cost the same.
  struct Pool {
    std::size_t last = 0;  ///< index of the largest
    double seconds = 0;    ///< mean
    double count = 0;      ///< observations
  };

  [[nodiscard]] std::size_t index_of(std::size_t size) const;
  [[nodiscard]] bool has_changed(double ratio);
  void pool_means();
  void fit_line();
  void draw_curve();

  std::vector<Sizes> sizes_;
  std::vector<Pool> pools_;  ///< of sizes_ that were ever seen, ascending
  std::size_t latest_ = 0;   ///< index of the last observation
  int off_in_a_row_ = 0;     ///< the latest, far above what was known; negative: below
  std::optional<Line> line_;
};

}  // namespace weir::schedule
