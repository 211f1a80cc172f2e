// SPDX-License-Identifier: Apache-2.0
#include "agent/model/speculation.h"

#include <algorithm>
#include <chrono>

namespace weir::model {

namespace {

// Guesses of all sequences: they change slower than one of them.
constexpr double kMemoryOfAll = 500;
// Before anything is known, with the weight of so many guesses.
constexpr double kRightAtFirst = 0.5;
constexpr double kWeightAtFirst = 2;
// What others' guesses count for a sequence, and how right they make its own seem at most: that the
// texts of others go round says little about this one.
constexpr double kWeightOfOthers = 4;
constexpr double kRightByOthers = 0.7;
// A step may seem this much slower than it should be, then it was held up: no debt for that.
constexpr double kMostSurprise = 2;

double micros(Duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

Duration duration_of(double microseconds) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double, std::micro>(microseconds));
}

}  // namespace

Speculation::Speculation(std::size_t most_drafts, bool one_pass)
    : most_drafts_(most_drafts), one_pass_(one_pass), odds_(kMemoryOfAll) {}

void Speculation::follow(Drafting& sequence, std::span<const std::int32_t> tokens,
                         std::size_t prompt_tokens) {
  while (sequence.ngrams.seen() < tokens.size()) {
    const bool own = sequence.ngrams.seen() >= prompt_tokens;
    const auto guess = sequence.ngrams.take_in(tokens);
    if (!guess || !own) continue;
    sequence.odds.learn(*guess);
    odds_.learn(*guess);
  }
}

Speculation::Hope Speculation::hope_of(const Drafting& sequence) const {
  std::array<double, DraftOdds::kKinds> right{};
  for (std::size_t kind = 0; kind < right.size(); ++kind) {
    double before = std::min(odds_.right(kind, kRightAtFirst, kWeightAtFirst), kRightByOthers);
    // A longer match is no worse than a shorter one until it is seen to be.
    if (kind > 0) before = std::max(before, right[kind - 1]);
    right[kind] = sequence.odds.right(kind, before, kWeightOfOthers);
  }
  Hope hope;
  std::size_t matched = *sequence.ngrams.matched();
  double all_right = 1;
  double tokens = 0;
  std::size_t drafts = 0;
  for (std::size_t arm = 0; arm < kArms.size() && kArms[arm] <= most_drafts_; ++arm) {
    for (; drafts < kArms[arm]; ++drafts, ++matched) {
      all_right *= right[DraftOdds::kind_of(matched)];
      tokens += all_right;
    }
    hope.tokens[arm] = tokens;
  }
  return hope;
}

double Speculation::time_of(const Step& step) const {
  const std::size_t drafts = step.drafting * step.drafts;
  if (one_pass_ || step.drafting == step.sequences) return cost_.hoped(step.sequences + drafts);
  // One token of each in a pass, the rest of those that have more in another one.
  return step.plain_us + cost_.hoped(drafts);
}

bool Speculation::fair(std::span<const Candidate> candidates, std::span<const Hope> drafting,
                       std::size_t arm, double time_us) const {
  const double most_loss = kMostLoss * step_.plain_us;
  const auto bears = [&](const Candidate& candidate, double tokens) {
    return candidate.drafting->won_us + tokens * step_.plain_us - time_us >= -most_loss;
  };
  for (std::size_t at = 0; at < candidates.size(); ++at) {
    const auto own = std::find_if(drafting.begin(), drafting.end(),
                                  [at](const Hope& hope) { return hope.at == at; });
    if (!bears(candidates[at], own == drafting.end() ? 1 : 1 + own->tokens[arm])) return false;
  }
  return true;
}

std::optional<Duration> Speculation::choose(std::span<Candidate> candidates) {
  cost_.tick();
  step_ = {};
  const std::size_t sequences = candidates.size();
  if (!considers(sequences)) return std::nullopt;
  step_.sequences = sequences;
  const auto plain = cost_.measured(sequences);
  if (!plain || !plain->sure) return std::nullopt;
  step_.plain_us = plain->micros;
  if (plain->age > kStepsToCompare || won_us_ < -kMostLossOfAll * step_.plain_us) {
    return std::nullopt;
  }
  hopes_.clear();
  for (std::size_t at = 0; at < sequences; ++at) {
    if (!candidates[at].drafting->ngrams.matched()) continue;
    hopes_.push_back(hope_of(*candidates[at].drafting));
    hopes_.back().at = at;
  }
  double best_gain = kLeastGain;
  Step best = step_;
  std::vector<Hope> drafting;
  std::vector<std::size_t> who;
  for (std::size_t arm = 0; arm < kArms.size() && kArms[arm] <= most_drafts_; ++arm) {
    drafting.clear();
    for (const Hope& hope : hopes_) {
      if (candidates[hope.at].most >= kArms[arm]) drafting.push_back(hope);
    }
    std::sort(drafting.begin(), drafting.end(),
              [arm](const Hope& a, const Hope& b) { return a.tokens[arm] > b.tokens[arm]; });
    Step step = step_;
    step.drafts = kArms[arm];
    auto tokens = static_cast<double>(sequences);
    for (const Hope& hope : drafting) {
      if (++step.drafting * step.drafts > most_drafts_) break;
      tokens += hope.tokens[arm];
      const double time = time_of(step);
      const double gain = tokens / static_cast<double>(sequences) * step_.plain_us / time;
      if (gain <= best_gain) continue;
      const std::span<const Hope> those{drafting.data(), step.drafting};
      if (!fair(candidates, those, arm, time)) continue;
      best_gain = gain;
      best = step;
      best.expected_us = time;
      who.clear();
      for (const Hope& each : those) who.push_back(each.at);
    }
  }
  step_ = best;
  for (const std::size_t at : who) candidates[at].drafts = step_.drafts;
  return who.empty() ? std::nullopt : std::optional(duration_of(step_.expected_us));
}

void Speculation::computed(Duration took) {
  if (step_.sequences == 0) return;
  step_.took_us = micros(took);
  const std::size_t drafts = step_.drafting * step_.drafts;
  if (one_pass_ || drafts == 0 || step_.drafting == step_.sequences) {
    cost_.learn(step_.sequences + drafts, step_.took_us);
  } else {
    cost_.learn(drafts, std::max(step_.took_us - step_.plain_us, 0.1 * step_.took_us));
  }
}

void Speculation::brought(Drafting& sequence, std::size_t tokens) {
  if (step_.sequences == 0 || step_.plain_us <= 0) return;
  double won = kLossShare * step_.plain_us;
  if (step_.drafting > 0) {
    const double took = std::min(step_.took_us, kMostSurprise * step_.expected_us);
    won += static_cast<double>(tokens) * step_.plain_us - took;
  }
  const double most = kMostWon * step_.plain_us;
  sequence.won_us = std::min(sequence.won_us + won, most);
  won_us_ = std::min(won_us_ + won / static_cast<double>(step_.sequences), most);
}

}  // namespace weir::model
