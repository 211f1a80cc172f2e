// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/housekeeping.h"

#include <utility>

namespace weir::kernel {

Status Housekeeping::tick(TimePoint now) {
  const bool census_due = now >= next_census_;
  if (adopted_once_ && !census_due) return {};
  adopted_once_ = true;
  Status adopted = chores_.adopt(now);
  if (!census_due) return adopted;
  // From now, not from when it was due: after a pause one census, not all those that were missed.
  next_census_ = now + kCensusInterval;
  Status counted = chores_.take_census(now);
  return adopted ? std::move(counted) : std::move(adopted);
}

}  // namespace weir::kernel
