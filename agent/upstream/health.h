// SPDX-License-Identifier: Apache-2.0
//
// How well a model has answered lately, and whether to ask it: the share of attempts that
// succeeded, and the probes that find out when one that is avoided is well again.
//
// Thread-safe, unless a type says otherwise. Owns nothing; the clock must outlive it. Cannot fail.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/base/clock.h"

namespace weir::upstream {

/// Share of the attempts that succeeded, exponentially weighted in time. Under many attempts the
/// memory is shorter, kMostAttempts: a model that dies is known after a few dozen attempts, not
/// after seconds. Thread-compatible.
class SuccessWindow {
 public:
  static constexpr std::chrono::seconds kTimeConstant{5};
  static constexpr double kMostAttempts = 50;  ///< weight of all attempts together
  static constexpr double kLeastAttempts = 5;  ///< with less weight nothing is known

  void record(bool succeeded, TimePoint now);
  /// 0..1; unset: too few attempts lately to tell.
  [[nodiscard]] std::optional<double> share(TimePoint now) const;

 private:
  [[nodiscard]] double kept(TimePoint now) const;

  TimePoint counted_at_{};
  double attempts_ = 0;   ///< each weighted by exp(-age / kTimeConstant)
  double successes_ = 0;  ///< likewise
};

/// The health of one model.
class ModelHealth {
 public:
  static constexpr Duration kProbeEvery = std::chrono::milliseconds(250);

  explicit ModelHealth(const Clock& clock) : clock_(clock) {}

  void record(bool succeeded);

  /// Unknown counts as healthy: stale is neutral.
  [[nodiscard]] bool below(double min_health) const;
  [[nodiscard]] std::optional<double> share() const;

  /// The last kRow attempts have all failed: what takes the share a while to show. Not a reason to
  /// leave it alone, but to try again elsewhere.
  static constexpr int kRow = 3;
  [[nodiscard]] bool failing() const;

  /// Whether an attempt may be made although the model is below its threshold: one each
  /// kProbeEvery.
  [[nodiscard]] bool take_probe();

 private:
  const Clock& clock_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  SuccessWindow window_;
  int failures_in_a_row_ = 0;
  std::optional<TimePoint> next_probe_;  ///< unset: at once
};

/// The health of every model that was attempted, shared by all routes: it is the model's, whoever
/// asks.
class HealthBoard {
 public:
  explicit HealthBoard(const Clock& clock) : clock_(clock) {}

  /// Precondition: `model` is the name of a model, so that their number is bounded.
  [[nodiscard]] ModelHealth& of(std::string_view model);

  /// By name; models whose share is not known are left out.
  [[nodiscard]] std::vector<std::pair<std::string, double>> shares() const;

 private:
  const Clock& clock_;
  mutable std::shared_mutex mutex_;
  std::map<std::string, std::unique_ptr<ModelHealth>, std::less<>> models_;  // guarded by mutex_
};

}  // namespace weir::upstream
