// SPDX-License-Identifier: Apache-2.0
#include "agent/model/vocabulary.h"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace weir::model {

Result<std::vector<llama_token>> Vocabulary::tokenize(std::string_view text,
                                                      Special special) const {
  const auto too_long = [&] {
    return make_error(Code::kInvalidArgument,
                      "the prompt is too long: " + std::to_string(text.size()) + " bytes");
  };
  if (text.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return too_long();
  }
  const auto text_bytes = static_cast<std::int32_t>(text.size());
  // Most vocabularies need fewer tokens than bytes; a negative answer says how many.
  std::vector<llama_token> tokens(text.size() / 2 + 8);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const std::int32_t count = llama_tokenize(
        vocab_, text.data(), text_bytes, tokens.data(), static_cast<std::int32_t>(tokens.size()),
        special == Special::kAround, special != Special::kNone);
    if (count >= 0) {
      tokens.resize(static_cast<std::size_t>(count));
      return tokens;
    }
    if (count == std::numeric_limits<std::int32_t>::min()) {
      return too_long();
    }
    tokens.resize(static_cast<std::size_t>(-count));
  }
  return make_error(Code::kInternal, "the tokenizer changed its mind about the number of tokens");
}

std::string Vocabulary::piece(llama_token token) const {
  std::string text;
  piece(token, text);
  return text;
}

void Vocabulary::piece(llama_token token, std::string& text) const {
  constexpr std::size_t kMostPieces = 32;  // in bytes; a longer one is asked for again
  text.resize(std::max(text.capacity(), kMostPieces));
  std::int32_t count = llama_token_to_piece(vocab_, token, text.data(),
                                            static_cast<std::int32_t>(text.size()), 0, false);
  if (count < 0) {
    text.resize(static_cast<std::size_t>(-count));
    count = llama_token_to_piece(vocab_, token, text.data(), static_cast<std::int32_t>(text.size()),
                                 0, false);
  }
  text.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
}

}  // namespace weir::model
