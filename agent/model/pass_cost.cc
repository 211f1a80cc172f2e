// SPDX-License-Identifier: Apache-2.0
#include "agent/model/pass_cost.h"

#include <algorithm>

namespace weir::model {

namespace {

constexpr double kNewest = 0.2;  // what the newest sample counts
// A pass may seem this much slower than it should be, then it was held up.
constexpr double kMostSurprise = 2.0;
// Of the first the least counts, and nothing is a surprise.
constexpr std::uint32_t kFirstSamples = 3;
// What another token costs, of what one costs on average, where nothing larger was measured.
constexpr double kNextToken = 0.5;
// After half as many steps a cost counts three quarters, after these half. It is a matter of some
// plain steps' time to find out.
constexpr double kForgottenSteps = 4096;
constexpr double kForgottenStepsUnsure = 256;
constexpr double kLeastBelieved = 0.5;

}  // namespace

void PassCost::learn(std::size_t tokens, double micros) {
  if (tokens == 0 || tokens > kMostTokens) return;
  Entry& entry = entries_[tokens];
  entry.at = now_;
  if (entry.samples < kFirstSamples) {
    entry.micros = entry.samples == 0 ? micros : std::min(micros, entry.micros);
    ++entry.samples;
    return;
  }
  micros = std::min(micros, kMostSurprise * entry.micros);
  entry.micros += kNewest * (micros - entry.micros);
}

std::optional<PassCost::Measured> PassCost::measured(std::size_t tokens) const {
  if (tokens == 0 || tokens > kMostTokens || entries_[tokens].samples == 0) return std::nullopt;
  const Entry& entry = entries_[tokens];
  return Measured{entry.micros, now_ - entry.at, entry.samples == kFirstSamples};
}

double PassCost::hoped(std::size_t tokens) const {
  const std::size_t within = std::min(tokens, kMostTokens);
  const auto believed = [&](std::size_t at) {
    const double age = static_cast<double>(now_ - entries_[at].at);
    const double steps =
        entries_[at].samples < kFirstSamples ? kForgottenStepsUnsure : kForgottenSteps;
    return entries_[at].micros * std::max(kLeastBelieved, 1 - (1 - kLeastBelieved) * age / steps);
  };
  std::size_t lower = within;
  while (lower > 0 && entries_[lower].samples == 0) --lower;
  std::size_t upper = within;
  while (upper <= kMostTokens && entries_[upper].samples == 0) ++upper;
  if (lower == 0) return upper > kMostTokens ? 0 : believed(upper);
  const double below = believed(lower);
  if (lower == tokens) return below;
  const auto more = static_cast<double>(tokens - lower);
  if (upper > kMostTokens) return below * (1 + kNextToken * more / static_cast<double>(lower));
  const double above = std::max(believed(upper), below);
  return below + (above - below) * more / static_cast<double>(upper - lower);
}

}  // namespace weir::model
