// SPDX-License-Identifier: Apache-2.0
//
// The JSON of embeddings, which is OpenAI's, and of reranking, which is that of Jina and Cohere:
// request bodies in, result bodies out.
//
// Thread-safe: pure functions; ids apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "agent/base/clock.h"
#include "agent/model/generation.h"
#include "agent/serve/api_error.h"
#include "agent/serve/model_call.h"

namespace weir::serve {

/// Texts or documents of one request; OpenAI's bound.
inline constexpr std::size_t kMostTexts = 2048;

/// What the answer is to look like.
struct EmbeddingsFormat {
  bool base64 = false;
  std::optional<std::size_t> dimensions;
};
struct RerankFormat {
  std::string id;
  std::shared_ptr<const model::EmbeddingInput> input;
  std::optional<std::size_t> top_n;
  bool return_documents = false;
};

/// As a client asked for it; the listener is not set yet.
template <typename Format>
struct EmbeddingCall {
  CallTerms terms;
  std::shared_ptr<model::GenerationRequest> request;
  Format format;
};
using EmbeddingsCall = EmbeddingCall<EmbeddingsFormat>;
using RerankCall = EmbeddingCall<RerankFormat>;

/// Body of POST /v1/embeddings; `now` is what deadline_ms counts from.
[[nodiscard]] Outcome<EmbeddingsCall> parse_embeddings(std::string_view body, TimePoint now);
/// Body of POST /v1/rerank.
[[nodiscard]] Outcome<RerankCall> parse_rerank(std::string_view body, TimePoint now);

/// `values` are vectors of unit length, one after the other, `texts` of them; with `dimensions`
/// only the first of each are told, scaled to unit length again. 400 when they have fewer.
[[nodiscard]] Outcome<std::string> embeddings_result(std::string_view model,
                                                     const EmbeddingsFormat& format,
                                                     std::span<const float> values,
                                                     std::size_t texts, const model::Usage& usage);

/// The documents by falling score, of equal ones the earlier first.
[[nodiscard]] std::string rerank_result(std::string_view model, const RerankFormat& format,
                                        std::span<const float> scores, const model::Usage& usage);

/// As RFC 4648, section 4, of 32-bit floats in little-endian order.
[[nodiscard]] std::string base64_of(std::span<const float> values);

}  // namespace weir::serve
