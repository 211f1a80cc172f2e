// SPDX-License-Identifier: Apache-2.0
//
// Prompts of a wanted number of tokens. The rule: a token is a word of three letters and a blank
// behind it (a full stop behind the last one), so that a prompt of N tokens has exactly 4N bytes.
// That is what the agent reckons with before it tokenizes (model::estimated_tokens), and what
// vocabularies of natural English come close to, since the words are common ones; a small or
// foreign vocabulary needs more. The answer's own usage says what the model counted.
//
// Words are drawn from the seed: the same for each run, another sequence for each request, so that
// no cache of prefixes helps by accident. Where a trace has hash_ids, the words of a block of
// `block_tokens` are drawn from its id instead: equal ids are equal text, as in the trace.
//
// Thread-safe: constant after construction.
#pragma once

#include <cstdint>
#include <string>

#include "agent/ctl/replay/arrival_plan.h"

namespace weir::replay {

class PromptText {
 public:
  /// Blocks shrink and grow with the lengths, so that the same share of a prompt stays shared.
  PromptText(std::uint64_t seed, double scale_lengths);

  /// Appends 4 bytes for each of arrival.prompt_tokens; no character needs escaping in JSON.
  void append(std::string& out, const Arrival& arrival) const;

 private:
  std::uint64_t seed_;
  std::uint32_t block_tokens_;
};

}  // namespace weir::replay
