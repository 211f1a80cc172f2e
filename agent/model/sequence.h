// SPDX-License-Identifier: Apache-2.0
//
// One request while a model works on it: its tokens, how far they are decoded, and what makes text
// of them. Outlives its place in the KV cache when it is parked.
//
// Thread-compatible: one engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/llama_handles.h"
#include "agent/model/logprob_trail.h"
#include "agent/model/request_queue.h"
#include "agent/model/sampler.h"
#include "agent/model/speculation.h"
#include "agent/model/step_plan.h"
#include "agent/model/text_assembler.h"
#include "agent/model/vocabulary.h"

namespace weir::model {

struct Sequence {
  Taken taken;
  Urgency urgency;
  std::optional<TimePoint> first_token;
  std::vector<llama_token> tokens;  ///< the prompt, and what was sampled since
  std::size_t prompt_tokens = 0;    ///< of those
  Sampler sampler;
  TextAssembler text;
  LogprobTrail logprobs;

  std::size_t decoded = 0;      ///< of the tokens: in the KV cache; also the next position
  std::size_t computed = 0;     ///< the most of them that ever were
  std::size_t cached = 0;       ///< of the prompt: came from another request
  std::uint32_t generated = 0;  ///< tokens sampled, without the one that ends generation

  /// Another sequence computes the first `length` tokens, which are the same, just now.
  struct Leader {
    std::uint64_t admission = 0;
    std::size_t length = 0;
  };
  std::optional<Leader> leader;
  bool looked = false;                    ///< for what others have of its tokens
  std::optional<TimePoint> paused_since;  ///< in favour of prompts of a higher level
  bool rests = false;                     ///< its listener wants no more for now
  bool in_chunks = false;                 ///< its prompt could not be computed in slices
  Drafting drafting{};                    ///< what is known for guessing how it goes on

  // Of the current step.
  std::size_t in_batch = 0;               ///< tokens of this sequence
  std::size_t filler = 0;                 ///< tokens after those that mean nothing
  std::optional<std::int32_t> logits_at;  ///< batch index whose logits give its next token
  std::vector<llama_token> drafts{};      ///< guesses that follow its tokens in the batch

  /// Of a request that was taken `admission`-th; moves from `taken` when it succeeds.
  static Result<std::unique_ptr<Sequence>> create(Taken& taken, const Vocabulary& vocabulary,
                                                  std::uint64_t admission);

  [[nodiscard]] std::size_t left() const { return tokens.size() - decoded; }
  [[nodiscard]] bool generates() const { return generated > 0 && left() == 1; }
  [[nodiscard]] const GenerationRequest& request() const { return *taken.request; }

  /// What the assembler has just returned.
  void tell(const std::string& piece) {
    if (piece.empty()) return;
    Listener& listener = *request().listener;
    if (request().sampling.logprobs) {
      const std::vector<TokenLogprob> scored = logprobs.take(text.released_bytes());
      if (!scored.empty()) listener.on_logprobs(scored);
    }
    listener.on_text(piece);
  }
};

/// Null: the slot is free.
using Slot = std::unique_ptr<Sequence>;

}  // namespace weir::model
