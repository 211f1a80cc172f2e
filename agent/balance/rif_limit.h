// SPDX-License-Identifier: Apache-2.0
//
// Which backends of a pool count as hot: those with more load than the pool's limit on requests in
// flight (RIF), which follows the load of the pool itself. The kernel compares with it at every
// pick of the policy `prequal`.
//
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "agent/kernel/data_plane.h"

namespace weir::balance {

/// The limit of a pool whose backends have these loads; 0 for none. At least one backend is never
/// above it, so never are all hot.
///
/// From four backends on the quantile 2^-0.25 = 0.84 of the loads, the value that Prequal (NSDI'24)
/// found best, interpolated. Below, a quantile is hardly more than the largest load and nobody
/// would be hot: there it is 1.25 times the median, and at least 2, so that one request more than
/// the others does not decide.
[[nodiscard]] double rif_limit(std::vector<double> loads);

/// The limit of every pool that has an active backend. Backends with an open breaker take nothing;
/// they would pull the limit down, and are left out unless all are open.
[[nodiscard]] std::vector<kernel::PoolLimit> rif_limits(
    const std::vector<kernel::BackendReading>& backends);

}  // namespace weir::balance
