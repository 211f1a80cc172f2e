// SPDX-License-Identifier: Apache-2.0
//
// Keeps retries from multiplying an overload: of the requests of the last seconds, at most a share
// may be tried again, whatever fails. One budget per route; every attempt beyond the first of a
// request is taken from it, adaptive ones included.
//
// Requests and retries are both counted with weights that decay exponentially, so that an idle hour
// saves nothing up for a storm. A floor lets a route with few requests retry at all (Finagle
// and Envoy have one as well): one retry a second, ten at once. Over any time T, retries are
// therefore at most share * requests + kFloorPerSecond * (T + kWindow). A share of 0 means none at
// all, and has no floor.
//
// Thread-safe. Owns nothing; the clock must outlive it. Cannot fail.
#pragma once

#include <chrono>
#include <mutex>

#include "agent/base/clock.h"

namespace weir::upstream {

class RetryBudget {
 public:
  static constexpr std::chrono::seconds kWindow{10};  ///< time constant of the decay
  static constexpr double kFloorPerSecond = 1;

  /// `percent`: retries for each hundred requests, 0..100.
  RetryBudget(double percent, const Clock& clock);

  /// A request has come.
  void deposit();

  /// Takes one retry; false: there is none left.
  [[nodiscard]] bool withdraw();

 private:
  void decay_locked();

  const double share_;
  const double floor_;
  const Clock& clock_;

  std::mutex mutex_;
  // Guarded by mutex_.
  TimePoint counted_at_;
  double requests_ = 0;  ///< each weighted by exp(-age / kWindow)
  double retries_ = 0;   ///< likewise
};

}  // namespace weir::upstream
