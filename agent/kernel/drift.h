// SPDX-License-Identifier: Apache-2.0
//
// When does a gauge differ from a recount because it is wrong, and not because connections came and
// went while it was recounted?
//
// A recount is no snapshot: it takes a while, and what changes meanwhile may be in it or not. But
// it surely has what was there all the time, and nothing that never was. With the gauge read before
// and after, and a limit to what entered it in between, the error of the gauge lies between
//
//   after - counted - entered   (what is there at the end and did not enter meanwhile was counted)
//   before - counted + entered  (what was counted was there at the beginning, or entered)
//
// A program that is just between the two stores of one change (gauge and socket), which takes some
// nanoseconds, can make a recount wrong by one. So an error counts only when it shows in two
// recounts of one census, with all programs that ran in the first one ended before the second; and
// is corrected only when it shows in two successive censuses, by the least that was seen. A false
// correction takes four such coincidences in a row, and none of the other recounts seeing more.
//
// Thread-safety: values; a DriftRule belongs to one thread.
#pragma once

#include <cstdint>

namespace weir::kernel {

/// One gauge and one recount.
struct GaugeRecount {
  std::uint32_t before = 0;
  std::uint32_t counted = 0;
  std::uint32_t after = 0;
  std::uint64_t entered = 0;  ///< at most so many entered between `before` and `after`
};

/// The error of the gauge (gauge minus truth) is at least `low` and at most `high`.
struct DriftBounds {
  std::int64_t low = 0;
  std::int64_t high = 0;

  /// The error that is certain: nearest to 0 within the bounds.
  [[nodiscard]] std::int64_t certain() const;
  /// Whether another recount could tell more.
  [[nodiscard]] bool decided() const { return low == high; }
};

[[nodiscard]] DriftBounds bounds(const GaugeRecount& recount);

class DriftRule {
 public:
  /// One recount of the census that is under way.
  void add(const DriftBounds& recount);
  /// Whether another recount in this census is worth its time.
  [[nodiscard]] bool wants_more() const;
  /// Whether a recount of this census showed an error: the next one is to wait for the programs
  /// that run now.
  [[nodiscard]] bool suspects() const { return shown_ > 0; }
  /// Ends the census. Returns what is to be added to the gauge, usually 0.
  [[nodiscard]] std::int64_t conclude();
  /// The error that the last census was certain of, before it was corrected.
  [[nodiscard]] std::int64_t drift() const { return drift_; }

 private:
  // This census.
  std::int64_t least_ = 0;   ///< least certain error so far
  std::uint32_t shown_ = 0;  ///< recounts that were certain of one
  bool right_ = false;       ///< some recount showed the gauge to be right, or errors both ways
  bool undecided_ = false;   ///< some recount told nothing
  // The census before.
  std::int64_t standing_ = 0;  ///< its error, less what was corrected
  std::int64_t drift_ = 0;
};

}  // namespace weir::kernel
