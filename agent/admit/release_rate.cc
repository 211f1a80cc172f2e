// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/release_rate.h"

#include <algorithm>
#include <cmath>

namespace weir::admit {
namespace {

// Long enough to hold a few requests of seconds each, short enough for a hint about the present.
constexpr double kTimeConstantSeconds = 5;

}  // namespace

void ReleaseRate::update(std::uint64_t released, TimePoint now) {
  if (!last_.has_value()) {
    last_ = Sample{released, now};
    return;
  }
  const double seconds = std::chrono::duration<double>(now - last_->at).count();
  if (seconds <= 0) return;
  const double rate = static_cast<double>(released - last_->released) / seconds;
  const double before = per_second_.load(std::memory_order_relaxed);
  const double share = before < 0 ? 1 : 1 - std::exp(-seconds / kTimeConstantSeconds);
  per_second_.store(std::max(before, 0.0) * (1 - share) + rate * share, std::memory_order_relaxed);
  last_ = Sample{released, now};
}

std::chrono::seconds ReleaseRate::time_for(std::uint64_t amount) const {
  const double rate = per_second_.load(std::memory_order_relaxed);
  if (rate < 0) return kLeast;
  const double seconds = std::ceil(static_cast<double>(amount) / rate);  // by 0: infinity or NaN
  if (!(seconds < static_cast<double>(kMost.count()))) return kMost;
  return std::max(kLeast, std::chrono::seconds(static_cast<std::int64_t>(seconds)));
}

}  // namespace weir::admit
