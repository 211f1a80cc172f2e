// SPDX-License-Identifier: Apache-2.0
//
// Chooses the next token of one sequence from the model's logits. In this order: biases, penalties,
// grammar, top-k, top-p, min-p, temperature, a draw from what is left; at temperature 0 the most
// likely of those that biases, penalties and grammar leave.
//
// With a grammar a token is chosen without it first, and only if it does not fit the whole
// vocabulary is tried: models mostly keep to a format by themselves, and trying all tokens takes
// longer than everything else here.
//
// Thread-compatible: one engine thread. Owns libllama's samplers, their random state and the place
// in the grammar. The model must outlive it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/grammar_matcher.h"
#include "agent/model/llama_handles.h"
#include "agent/model/vocabulary.h"

namespace weir::model {

class Sampler {
 public:
  /// Fails with kInvalidArgument, naming the parameter, its value and range, when one is outside
  /// (see SamplingParams). Penalties count the prompt's tokens as well. Without a seed every
  /// sampler draws one from the system.
  static Result<Sampler> create(const SamplingParams& params, const Vocabulary& vocabulary,
                                std::span<const llama_token> prompt);

  struct Choice {
    /// Unset: the text follows the grammar to its end, and nothing may follow it.
    std::optional<llama_token> token;
    /// Set if SamplingParams::logprobs asked for it and the token does not end generation.
    std::optional<TokenLogprob> logprob;
  };

  /// `logits`: one for each token of the vocabulary, none of them NaN. Fails with kInvalidArgument
  /// when the grammar is too ambiguous to be followed, or the vocabulary cannot spell what it asks
  /// for.
  Result<Choice> choose(std::span<const float> logits);

 private:
  Sampler(const SamplingParams& params, const Vocabulary& vocabulary);

  void add_penalties(const SamplingParams& params, std::span<const llama_token> prompt);
  void add_selection(const SamplingParams& params);
  [[nodiscard]] llama_token choose_freely(std::span<const float> logits);
  /// Unset: no token fits.
  [[nodiscard]] std::optional<llama_token> choose_fitting(std::span<const float> logits);
  [[nodiscard]] llama_token select(std::span<llama_token_data> candidates, bool sorted);
  [[nodiscard]] bool fits(llama_token token);
  [[nodiscard]] TokenLogprob score(llama_token token, std::span<const float> logits) const;
  [[nodiscard]] ScoredToken scored(llama_token token, double logprob) const;

  Vocabulary vocabulary_;
  bool greedy_ = false;
  std::size_t top_k_ = 0;  ///< 0: off
  std::optional<std::uint32_t> logprobs_;
  SamplerHandle adjust_;  ///< biases and penalties; null: none
  SamplerHandle select_;  ///< everything after the grammar; null: greedy
  std::optional<GrammarMatcher> grammar_;
  std::string piece_;  ///< of the token under consideration; kept for its memory
};

}  // namespace weir::model
