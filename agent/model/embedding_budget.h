// SPDX-License-Identifier: Apache-2.0
//
// How many tokens the texts of a batch should have, learned from the time that batches took: the
// fewest with which tokens are computed at nearly the best rate. More of them would only make those
// in the batch, and whoever comes next, wait for longer.
//
// Where that is depends on machine, model and threads: a call of a few tokens reads all weights for
// them, one of many computes attention over tokens that have nothing to do with each other, and
// falls out of the cache. A few batches in a hundred try a bound around the best one.
//
// Thread-compatible: the owner locks. Cannot fail; before anything was learned the bound is the
// first one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "agent/base/clock.h"
#include "agent/schedule/step_time.h"

namespace weir::model {

class EmbeddingBudget {
 public:
  /// Tokens told apart by the rate at which they are computed.
  static constexpr std::size_t kUnit = 16;

  /// Never more than `most` tokens, >= 1.
  explicit EmbeddingBudget(std::size_t most);

  /// Of the next batch.
  [[nodiscard]] std::size_t tokens() const { return bound_; }
  /// Of batches that are no trials.
  [[nodiscard]] std::size_t learned() const { return best_; }

  /// That batch was made; `is_full`: more tokens than the bound waited. The next one may be a
  /// trial.
  void made(bool is_full);

  /// A batch of so many tokens ran, on as many threads as always.
  void ran(std::size_t tokens, Duration took);

 private:
  [[nodiscard]] std::size_t best() const;
  [[nodiscard]] std::size_t within(double tokens) const;

  const std::size_t most_;
  schedule::StepTime time_;  ///< by units
  std::size_t best_;
  std::size_t bound_;       ///< the best one, or a trial
  std::uint64_t full_ = 0;  ///< batches
};

}  // namespace weir::model
