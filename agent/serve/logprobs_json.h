// SPDX-License-Identifier: Apache-2.0
//
// Log probabilities as OpenAI's completions have them: {"tokens": [...], "token_logprobs": [...],
// "top_logprobs": [{...}, ...], "text_offset": [...]}.
//
// Thread-safe: pure functions.
#pragma once

#include <cstddef>
#include <span>

#include "agent/model/generation.h"
#include "agent/serve/json_writer.h"

namespace weir::serve {

/// Writes the object; a token that is no UTF-8 by itself is written "bytes:\xe2\x80". The chosen
/// token is among its top_logprobs, which may so be one more than were asked for. `offset`: of the
/// first token in the text, in characters. Returns the offset behind the last one.
std::size_t write_logprobs(JsonWriter& out, std::span<const model::TokenLogprob> tokens,
                           std::size_t offset);

}  // namespace weir::serve
