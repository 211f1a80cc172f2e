// SPDX-License-Identifier: Apache-2.0
//
// What a step of the engine costs, learned from the steps that ran. The time is taken as a sum of
// what the generating sequences cost (each token, the pass over the weights, the attention to what
// came before) and the same for the chunks of prompts: chunks of each length are a pass of their
// own where every sequence has its own cells, and a wide one costs less by the token.
//
// Fitted by least squares of the relative error over the last steps; no part is negative. A step
// that was held up by something else counts as twice what was expected at most, so that one hiccup
// moves little; a machine that has become slower is believed after a few steps.
//
// Thread-compatible. Pure: it is told what a step took.
#pragma once

#include <array>
#include <cstddef>
#include <optional>

#include "agent/base/clock.h"

namespace weir::model {

/// The tokens of one step, and the sum of their positions.
struct StepShape {
  std::size_t decode_tokens = 0;
  std::size_t decode_positions = 0;
  std::size_t prompt_chunks = 0;  ///< those of one length count once
  std::size_t prompt_tokens = 0;
  std::size_t prompt_positions = 0;
};

class StepCost {
 public:
  void learn(const StepShape& shape, Duration took);

  /// Unset until a step with such a part has run.
  [[nodiscard]] std::optional<Duration> decodes(const StepShape& shape) const;
  [[nodiscard]] std::optional<Duration> prompts(const StepShape& shape) const;
  /// What is not known counts as nothing.
  [[nodiscard]] Duration step(const StepShape& shape) const;

  /// How many tokens a chunk that begins at `position` may have to take no longer than `budget`;
  /// may be 0. Unset: not known.
  [[nodiscard]] std::optional<std::size_t> chunk_within(Duration budget,
                                                        std::size_t position) const;

  /// The fewest tokens with which the pass itself is no more than 1/`share` of a chunk's time.
  [[nodiscard]] std::optional<std::size_t> chunk_worth(std::size_t share) const;

 private:
  /// y = a0 * tokens + a1 * passes + a2 * positions, in microseconds.
  class Fit {
   public:
    using Features = std::array<double, 3>;
    void learn(const Features& x, double y);
    [[nodiscard]] double at(const Features& x) const;
    [[nodiscard]] bool known() const { return samples_ > 0; }
    [[nodiscard]] double per_token() const;
    [[nodiscard]] double per_pass() const { return parts_[1]; }
    [[nodiscard]] double per_position() const { return parts_[2]; }

   private:
    Features parts_{};
    std::array<Features, 3> products_{};  ///< of the features with one another, decayed
    Features with_time_{};                ///< of the features with the time, decayed
    double token_time_ = 0;               ///< time by token, of late
    std::size_t samples_ = 0;
  };

  Fit decode_;
  Fit prompt_;
};

}  // namespace weir::model
