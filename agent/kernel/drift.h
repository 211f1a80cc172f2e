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
// That holds as long as no program is in the middle of its stores (gauge, counter, socket) when one
// of the three is read. A quick recount hopes so, and is taken as a hint only. A careful one waits
// between its steps until the programs that run have ended (census.cc): its bounds are proven, at
// the price of a longer time in which something may enter. Of a backend that is never quiet, the
// error that stays is therefore at most what enters in some 40 ms.
//
// An error is corrected when two censuses have proven it, by the least that both have.
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

  /// The error that is certain: nearest to 0 within the bounds. None when they cross: the gauge
  /// went wrong during the recount itself.
  [[nodiscard]] std::int64_t certain() const;
  /// Whether they leave no room for anything else.
  [[nodiscard]] bool decided() const { return low == high; }
};

[[nodiscard]] DriftBounds bounds(const GaugeRecount& recount);

class DriftRule {
 public:
  /// A quick recount of this census.
  void glance(const DriftBounds& seen);
  /// A careful one.
  void examine(const DriftBounds& proven);
  /// Whether a careful recount would tell more.
  [[nodiscard]] bool suspects() const;
  /// Ends the census. Returns what is to be added to the gauge, usually 0.
  [[nodiscard]] std::int64_t conclude();
  /// The error that the last census has proven, before it was corrected.
  [[nodiscard]] std::int64_t drift() const { return drift_; }

 private:
  // This census.
  bool suspect_ = false;
  bool right_ = false;
  bool examined_ = false;
  DriftBounds proven_;
  // Those before.
  std::int64_t standing_ = 0;  ///< proven once, and not corrected
  std::int64_t drift_ = 0;
};

}  // namespace weir::kernel
