// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/health.h"

#include <algorithm>
#include <cmath>

namespace weir::upstream {

double SuccessWindow::kept(TimePoint now) const {
  if (now <= counted_at_) return 1;
  const double age = std::chrono::duration<double>(now - counted_at_).count();
  return std::exp(-age / std::chrono::duration<double>(kTimeConstant).count());
}

void SuccessWindow::record(bool succeeded, TimePoint now) {
  const double weight = kept(now);
  attempts_ *= weight;
  successes_ *= weight;
  counted_at_ = std::max(counted_at_, now);
  if (attempts_ > kMostAttempts - 1) {
    const double shorter = (kMostAttempts - 1) / attempts_;
    attempts_ *= shorter;
    successes_ *= shorter;
  }
  attempts_ += 1;
  successes_ += succeeded ? 1 : 0;
}

std::optional<double> SuccessWindow::share(TimePoint now) const {
  // What decays is the weight, so as to forget; the share itself stays.
  if (attempts_ * kept(now) < kLeastAttempts) return std::nullopt;
  return std::clamp(successes_ / attempts_, 0.0, 1.0);
}

void ModelHealth::record(bool succeeded) {
  const TimePoint now = clock_.now();
  const std::lock_guard lock(mutex_);
  window_.record(succeeded, now);
  failures_in_a_row_ = succeeded ? 0 : std::min(failures_in_a_row_ + 1, kRow);
}

bool ModelHealth::failing() const {
  const std::lock_guard lock(mutex_);
  return failures_in_a_row_ >= kRow;
}

std::optional<double> ModelHealth::share() const {
  const TimePoint now = clock_.now();
  const std::lock_guard lock(mutex_);
  return window_.share(now);
}

bool ModelHealth::below(double min_health) const { return share().value_or(1) < min_health; }

bool ModelHealth::take_probe() {
  const TimePoint now = clock_.now();
  const std::lock_guard lock(mutex_);
  if (next_probe_ && now < *next_probe_) return false;
  next_probe_ = now + kProbeEvery;
  return true;
}

ModelHealth& HealthBoard::of(std::string_view model) {
  {
    const std::shared_lock lock(mutex_);
    if (const auto found = models_.find(model); found != models_.end()) return *found->second;
  }
  const std::unique_lock lock(mutex_);
  auto& entry = models_[std::string(model)];
  if (!entry) entry = std::make_unique<ModelHealth>(clock_);
  return *entry;
}

std::vector<std::pair<std::string, double>> HealthBoard::shares() const {
  std::vector<std::pair<std::string, double>> known;
  const std::shared_lock lock(mutex_);
  for (const auto& [name, health] : models_) {
    if (const auto share = health->share()) known.emplace_back(name, *share);
  }
  return known;
}

}  // namespace weir::upstream
