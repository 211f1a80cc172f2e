// SPDX-License-Identifier: Apache-2.0
//
// Hears also how likely the tokens were that were said: two runs may differ where that is a tie.
//
// Thread-safety: that of the thread that runs the model.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/unit/model/recording_listener.h"

namespace weir::model {

/// Rounding may decide between tokens whose logarithms differ by less, and only there.
inline constexpr float kTie = 0.1F;

/// What was said, with the most likely tokens at each place.
class ScoredListener final : public Listener {
 public:
  explicit ScoredListener(std::shared_ptr<RecordingListener> heard) : heard_(std::move(heard)) {}
  void on_text(std::string_view text) override { heard_->on_text(text); }
  void on_complete(const Completion& completion) override { heard_->on_complete(completion); }
  void on_error(const Error& error) override { heard_->on_error(error); }
  void on_logprobs(std::span<const TokenLogprob> more) override {
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  std::vector<TokenLogprob> tokens;

 private:
  const std::shared_ptr<RecordingListener> heard_;
};

}  // namespace weir::model
