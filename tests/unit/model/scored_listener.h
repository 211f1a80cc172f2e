// SPDX-License-Identifier: Apache-2.0
//
// Hears also how likely the tokens were that were said: two runs may differ where that is a tie.
//
// Thread-safety: that of the thread that runs the model.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
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

/// A request, its listener, and what that heard.
struct ScoredCall {
  std::shared_ptr<GenerationRequest> request;
  std::shared_ptr<RecordingListener> heard;
  std::shared_ptr<ScoredListener> scored;
};

inline ScoredCall scored_call(std::string prompt, std::uint32_t max_tokens) {
  const Call call = greedy_call(std::move(prompt), max_tokens);
  const auto scored = std::make_shared<ScoredListener>(call.heard);
  call.request->listener = scored;
  call.request->sampling.logprobs = 8;
  return {call.request, call.heard, scored};
}

/// libllama adds up numbers of half precision in an order that depends on how batch and cells lie.
/// What comes of it shows only where two tokens are as good as equally likely: there, and nowhere
/// else, two runs may part. True when they say the same to the end.
inline bool same_but_for_a_tie(const ScoredCall& expected, const ScoredCall& found) {
  const auto& a = expected.scored->tokens;
  const auto& b = found.scored->tokens;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (a[i].chosen.bytes == b[i].chosen.bytes) continue;
    const auto& likely = a[i].most_likely;
    const auto other = std::find_if(likely.begin(), likely.end(), [&](const ScoredToken& token) {
      return token.bytes == b[i].chosen.bytes;
    });
    EXPECT_TRUE(other != likely.end() && a[i].chosen.logprob - other->logprob < kTie)
        << "token " << i << ": \"" << a[i].chosen.bytes << "\" and \"" << b[i].chosen.bytes << '"';
    return false;
  }
  EXPECT_EQ(expected.heard->text(), found.heard->text());
  EXPECT_EQ(expected.heard->completion()->reason, found.heard->completion()->reason);
  EXPECT_EQ(expected.heard->completion()->usage.completion_tokens,
            found.heard->completion()->usage.completion_tokens);
  return true;
}

}  // namespace weir::model
