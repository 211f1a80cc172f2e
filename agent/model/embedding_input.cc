// SPDX-License-Identifier: Apache-2.0
#include "agent/model/embedding_input.h"

namespace weir::model {

std::string_view to_string(Task task) {
  switch (task) {
    case Task::kGenerate:
      return "generate";
    case Task::kEmbed:
      return "embed";
    case Task::kScore:
      return "score";
  }
  return "unknown";
}

std::uint64_t EmbeddingInput::bytes() const {
  std::uint64_t bytes = query ? query->size() * texts.size() : 0;
  for (const Text& text : texts) {
    if (const auto* string = std::get_if<std::string>(&text)) bytes += string->size();
  }
  return bytes;
}

std::uint64_t EmbeddingInput::estimated_tokens() const {
  constexpr std::uint64_t kBytesPerToken = 4;
  std::uint64_t tokens = 0;
  for (const Text& text : texts) {
    if (const auto* string = std::get_if<std::string>(&text)) {
      const std::uint64_t bytes = string->size() + (query ? query->size() : 0);
      tokens += (bytes + kBytesPerToken - 1) / kBytesPerToken;
    } else {
      tokens += std::get<Tokens>(text).size();
    }
  }
  return tokens;
}

}  // namespace weir::model
