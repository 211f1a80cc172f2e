// SPDX-License-Identifier: Apache-2.0
#include "agent/model/embedding_budget.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace weir::model {

namespace {

// About where the rate of models of 0.5 M to 22 M parameters stops growing on one thread.
constexpr std::size_t kFirst = 128;

// Of the best rate. Less than two means of the same size differ by for no reason, as StepTime
// averages them.
constexpr double kNearlyBest = 0.97;

// A trial of half or twice the size costs some tenths of a batch: no more than a percent in all.
constexpr std::uint64_t kTrialEvery = 32;
constexpr std::array kTrials = {2.0, 0.75, 1.25, 0.5};

std::size_t units_of(std::size_t tokens) {
  return (tokens + EmbeddingBudget::kUnit / 2) / EmbeddingBudget::kUnit;
}

std::size_t most_units(std::size_t most) {
  return (most + EmbeddingBudget::kUnit - 1) / EmbeddingBudget::kUnit;
}

}  // namespace

EmbeddingBudget::EmbeddingBudget(std::size_t most)
    : most_(most), time_(most_units(most)), best_(std::min(most, kFirst)), bound_(best_) {}

void EmbeddingBudget::made(bool is_full) {
  bound_ = best_;
  if (!is_full || ++full_ % kTrialEvery != 0) return;
  bound_ = within(static_cast<double>(best_) * kTrials[full_ / kTrialEvery % kTrials.size()]);
}

void EmbeddingBudget::ran(std::size_t tokens, Duration took) {
  // One text alone may have more; there is nothing to choose then.
  if (tokens == 0 || tokens > most_) return;
  const std::size_t units = std::clamp<std::size_t>(units_of(tokens), 1, most_units(most_));
  // As long as that many units would have taken at the same rate.
  const double scale = static_cast<double>(units * kUnit) / static_cast<double>(tokens);
  time_.observe(
      units, std::chrono::duration_cast<Duration>(std::chrono::duration<double, Duration::period>(
                 static_cast<double>(took.count()) * scale)));
  const bool is_trial = bound_ != best_;
  best_ = best();
  if (!is_trial) bound_ = best_;
}

std::size_t EmbeddingBudget::within(double tokens) const {
  return std::clamp(static_cast<std::size_t>(std::lround(tokens)), std::min(most_, kUnit), most_);
}

std::size_t EmbeddingBudget::best() const {
  if (!time_.line()) return std::min(most_, kFirst);
  const auto rate = [this](std::size_t units) {
    return static_cast<double>(units) / std::max(time_.seconds_of(units), 1e-9);
  };
  // What is far beyond everything seen is only guessed.
  const std::size_t last = std::min(most_units(most_), 2 * time_.largest_seen());
  // Some hundred sizes at most, however many are allowed.
  const auto after = [](std::size_t units) { return units + std::max<std::size_t>(1, units / 16); };
  double most = 0;
  for (std::size_t units = 1; units <= last; units = after(units)) {
    most = std::max(most, rate(units));
  }
  for (std::size_t units = 1; units <= last; units = after(units)) {
    if (rate(units) >= kNearlyBest * most) return std::min(most_, units * kUnit);
  }
  return std::min(most_, last * kUnit);
}

}  // namespace weir::model
