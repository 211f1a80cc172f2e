// SPDX-License-Identifier: Apache-2.0
//
// Holds the log probabilities of tokens until the text that they begin in is certain: text is held
// back for whole characters and for stop strings, and what a stop string cut off must not be told.
//
// Thread-compatible: one engine thread.
#pragma once

#include <cstddef>
#include <deque>
#include <utility>
#include <vector>

#include "agent/model/generation.h"

namespace weir::model {

class LogprobTrail {
 public:
  /// The next token of the text.
  void push(TokenLogprob token) {
    const std::size_t begin = bytes_;
    bytes_ += token.chosen.bytes.size();
    held_.push_back({begin, std::move(token)});
  }

  /// Tokens that begin in the first `released` bytes of the text and were not taken before.
  [[nodiscard]] std::vector<TokenLogprob> take(std::size_t released) {
    std::vector<TokenLogprob> tokens;
    while (!held_.empty() && held_.front().begin < released) {
      tokens.push_back(std::move(held_.front().token));
      held_.pop_front();
    }
    return tokens;
  }

 private:
  struct Held {
    std::size_t begin = 0;  ///< byte of the text
    TokenLogprob token;
  };
  std::deque<Held> held_;
  std::size_t bytes_ = 0;
};

}  // namespace weir::model
