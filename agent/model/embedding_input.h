// SPDX-License-Identifier: Apache-2.0
//
// What a model is for, and what one that does not generate is given: texts, each of which becomes
// one vector, or one score.
//
// Thread-safe: values and pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace weir::model {

enum class Task {
  kGenerate,  ///< text from text
  kEmbed,     ///< a vector of unit length from each text
  kScore,     ///< how well each text answers a query
};
[[nodiscard]] std::string_view to_string(Task task);

/// Precondition: of a model that scores, texts are strings and there is a query; of one that
/// embeds, there is none.
struct EmbeddingInput {
  using Tokens = std::vector<std::int32_t>;
  using Text = std::variant<std::string, Tokens>;  ///< or what a tokenizer has made of it

  std::vector<Text> texts;           ///< at least one
  std::optional<std::string> query;  ///< of a model that scores

  /// Bytes to be tokenized; of a query, for each text again.
  [[nodiscard]] std::uint64_t bytes() const;
  /// A token for every four bytes, and those that are tokens already.
  [[nodiscard]] std::uint64_t estimated_tokens() const;
};

}  // namespace weir::model
