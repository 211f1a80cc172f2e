// SPDX-License-Identifier: Apache-2.0
//
// The JSON of the two generating protocols: request bodies in, result bodies out. Limits and
// defaults are those of OpenAI's completions where it has one.
//
// Thread-safe: pure functions; ids and the wall clock apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/model/generation.h"
#include "agent/serve/api_error.h"

namespace weir::serve {

/// A generation as a client asked for it; its listener is not set yet.
struct GenerationCall {
  std::optional<std::string> model;
  std::shared_ptr<model::GenerationRequest> request;
  std::optional<std::int32_t> priority;  ///< unset: the body does not say
  bool stream = false;
  bool include_usage = false;
};

/// Body of POST /infer; `now` is what deadline_ms counts from.
[[nodiscard]] Outcome<GenerationCall> parse_infer(std::string_view body, TimePoint now);

/// Body of POST /v1/completions; priority and deadline_ms are as in /infer.
[[nodiscard]] Outcome<GenerationCall> parse_completion(std::string_view body, TimePoint now);

/// What every body about one generation repeats.
struct GenerationNames {
  std::string id;
  std::string model;
  std::int64_t created_unix_seconds = 0;
  bool include_usage = false;
};

/// A text, or a piece of one.
struct GeneratedText {
  std::string text;
  /// Of the tokens that begin in it; unset: not asked for, or none begins in this piece.
  std::optional<std::vector<model::TokenLogprob>> logprobs;
};

[[nodiscard]] std::string infer_result(const GenerationNames& names, const GeneratedText& text,
                                       const model::Completion& completion);
[[nodiscard]] std::string completion_result(const GenerationNames& names, const GeneratedText& text,
                                            const model::Completion& completion);

/// Server-sent events of a streamed completion, each with its blank line.
/// `offset`: characters of the text that came before; those of this piece's tokens are added.
[[nodiscard]] std::string text_event(const GenerationNames& names, const GeneratedText& piece,
                                     std::size_t& offset);
/// The last text event, usage if it was asked for, and [DONE].
[[nodiscard]] std::string closing_events(const GenerationNames& names,
                                         const model::Completion& completion);
[[nodiscard]] std::string error_event(const ApiError& error);

}  // namespace weir::serve
