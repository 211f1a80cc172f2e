// SPDX-License-Identifier: Apache-2.0
//
// How likely the next guess about a sequence is right, by how many tokens before it have been as in
// the place that it comes from: what has repeated for long mostly goes on repeating. Counted from
// the guesses that were made, the older ones for less.
//
// Thread-compatible. Pure.
#pragma once

#include <array>
#include <bit>
#include <cstddef>

#include "agent/model/ngram_drafts.h"

namespace weir::model {

class DraftOdds {
 public:
  /// Of matches of 1, 2..3, 4..7, ... 32 and more tokens.
  static constexpr std::size_t kKinds = 6;
  [[nodiscard]] static std::size_t kind_of(std::size_t matched) {
    const auto kind = static_cast<std::size_t>(std::bit_width(matched));
    return kind == 0 ? 0 : kind > kKinds ? kKinds - 1 : kind - 1;
  }

  /// `memory`: guesses of a kind after which an older one counts a third.
  explicit DraftOdds(double memory) : keep_(1 - 1 / memory) {}

  void learn(const NgramDrafts::Guess& guess) {
    Kind& kind = kinds_[kind_of(guess.matched)];
    kind.right = keep_ * kind.right + (guess.right ? 1 : 0);
    kind.all = keep_ * kind.all + 1;
  }

  /// 0..1; `before` counts like `weight` guesses.
  [[nodiscard]] double right(std::size_t kind, double before, double weight) const {
    return (kinds_[kind].right + weight * before) / (kinds_[kind].all + weight);
  }

 private:
  struct Kind {
    double right = 0;
    double all = 0;
  };
  double keep_;
  std::array<Kind, kKinds> kinds_{};
};

}  // namespace weir::model
