// SPDX-License-Identifier: Apache-2.0
//
// Whether, and how far, to guess the next tokens of the sequences that generate (ngram_drafts.h)
// and to compute them in the same step: those that turn out to be what is sampled have cost less
// than steps of their own. A step with drafts is worth it when the tokens that it should bring, by
// how often guesses like these were right (draft_odds.h), come faster than in plain steps, by what
// passes have cost so far (pass_cost.h).
//
// What it can cost is bounded, however wrong the estimates are. Each sequence has an account of the
// time that steps with drafts have won or lost it, and so has the whole: who is kMostLoss plain
// steps in debt is in no step with drafts that should cost it more, and the debt is paid off with
// kLossShare of the time of each step. So a sequence is never later than without speculation by
// more than that share and a constant, also one that has no drafts itself but shares the step.
//
// Thread-compatible. Pure: it is told what a step took.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "agent/base/clock.h"
#include "agent/model/draft_odds.h"
#include "agent/model/ngram_drafts.h"
#include "agent/model/pass_cost.h"

namespace weir::model {

/// What speculation knows of one sequence.
struct Drafting {
  static constexpr double kMemory = 20;

  NgramDrafts ngrams;
  DraftOdds odds{kMemory};
  double won_us = 0;  ///< negative: lost
};

class Speculation {
 public:
  static constexpr double kLossShare = 0.01;
  static constexpr double kMostLoss = 4;  ///< in plain steps; of a sequence
  static constexpr double kMostLossOfAll = 16;
  static constexpr double kMostWon = 16;  ///< what is won beyond this pays for nothing
  static constexpr double kLeastGain = 1.05;
  /// Steps with drafts after which a plain one tells again what they are compared with.
  static constexpr std::size_t kStepsToCompare = 64;

  /// `most_drafts`: of one step. `one_pass`: sequences with and without drafts are computed in one
  /// pass; otherwise a pass has as many tokens of each sequence in it.
  Speculation(std::size_t most_drafts, bool one_pass);

  /// Whether a step of so many sequences may have drafts.
  [[nodiscard]] bool considers(std::size_t sequences) const {
    return sequences > 0 && sequences <= most_drafts_;
  }

  /// Takes in what the sequence has said since. The first `prompt_tokens` are none of its own.
  void follow(Drafting& sequence, std::span<const std::int32_t> tokens, std::size_t prompt_tokens);

  /// A sequence that generates.
  struct Candidate {
    Drafting* drafting = nullptr;  ///< all tokens taken in
    std::size_t most = 0;          ///< drafts that could be of use
    std::size_t drafts = 0;        ///< the answer
  };
  /// A step begins with these and nobody else; no more than it considers. What it should take, if
  /// it has drafts.
  std::optional<Duration> choose(std::span<Candidate> candidates);
  /// A step begins of which nothing is to be learned.
  void no_choice() { step_ = {}; }
  /// The step has been computed.
  void computed(Duration took);
  /// It has brought this one, which was among the candidates, so many tokens.
  void brought(Drafting& sequence, std::size_t tokens);

 private:
  static constexpr std::array<std::size_t, 6> kArms = {1, 3, 7, 15, 31, 63};  ///< drafts for each
  struct Hope {
    std::size_t at = 0;                         ///< of the candidates
    std::array<double, kArms.size()> tokens{};  ///< accepted of so many drafts, on average
  };
  struct Step {
    std::size_t sequences = 0;  ///< 0: not to be learned from
    std::size_t drafting = 0;   ///< of those
    std::size_t drafts = 0;     ///< of each
    double plain_us = 0;        ///< what it would take without
    double expected_us = 0;
    double took_us = 0;
  };

  [[nodiscard]] Hope hope_of(const Drafting& sequence) const;
  [[nodiscard]] double time_of(const Step& step) const;
  /// Nobody falls too far behind.
  [[nodiscard]] bool fair(std::span<const Candidate> candidates, std::span<const Hope> drafting,
                          std::size_t arm, double time_us) const;

  const std::size_t most_drafts_;
  const bool one_pass_;
  DraftOdds odds_;
  PassCost cost_;
  double won_us_ = 0;
  Step step_;
  std::vector<Hope> hopes_;  ///< kept for its memory
};

}  // namespace weir::model
