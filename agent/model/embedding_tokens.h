// SPDX-License-Identifier: Apache-2.0
//
// From texts to tokens, and the tokens of several texts in one list, which is what a request's
// prompt is in the queue.
//
// Thread-safe: libllama's tokenizer is; values otherwise. An EmbeddingTokenizer shares the weights,
// a TokenLists borrows the list. Errors name the text at fault: "input[3]", "documents[3]",
// "query".
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/embedding_input.h"
#include "agent/model/vocabulary.h"
#include "agent/model/weights.h"

namespace weir::model {

/// Reads what join() has written: the number of texts, where each ends, and all tokens.
class TokenLists {
 public:
  /// Precondition: a joined list, or an empty one: no texts.
  explicit TokenLists(std::span<const std::int32_t> joined);

  [[nodiscard]] static std::vector<std::int32_t> join(
      std::span<const std::vector<std::int32_t>> texts);

  [[nodiscard]] std::size_t size() const { return count_; }
  [[nodiscard]] std::span<const std::int32_t> operator[](std::size_t i) const;
  [[nodiscard]] std::size_t tokens() const { return joined_.size() - first(); }

 private:
  [[nodiscard]] std::size_t first() const { return count_ == 0 ? 0 : 1 + count_; }

  std::span<const std::int32_t> joined_;
  std::size_t count_;
};

class EmbeddingTokenizer {
 public:
  /// No text may have more tokens than `most_tokens`.
  EmbeddingTokenizer(const Weights& weights, std::uint32_t most_tokens);

  /// Joined. kInvalidArgument: a text is empty or too long, or a token is none of the vocabulary's.
  [[nodiscard]] Result<std::vector<std::int32_t>> tokenize(const EmbeddingInput& input) const;

 private:
  using Tokens = std::vector<std::int32_t>;
  [[nodiscard]] Result<Tokens> text(const EmbeddingInput::Text& text) const;
  [[nodiscard]] Result<Tokens> pair(const std::string& query, const std::string& document) const;

  const std::shared_ptr<llama_model> weights_;
  const Vocabulary vocabulary_;
  const std::uint32_t most_tokens_;
};

}  // namespace weir::model
