// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/logprobs_json.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "agent/model/text_assembler.h"

namespace weir::serve {
namespace {

std::string shown(std::string_view bytes) {
  if (model::replace_invalid_utf8(bytes) == bytes) return std::string(bytes);
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text = "bytes:";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += "\\x";
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

std::size_t characters(std::string_view bytes) {
  return static_cast<std::size_t>(std::count_if(bytes.begin(), bytes.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

/// An object's keys are unique: of tokens that read alike the likeliest stands for all.
void write_top(JsonWriter& out, const model::TokenLogprob& token) {
  std::vector<std::string> written;
  const auto write = [&](const model::ScoredToken& scored) {
    std::string text = shown(scored.bytes);
    if (std::find(written.begin(), written.end(), text) != written.end()) return;
    out.text_key(text).number(scored.logprob);
    written.push_back(std::move(text));
  };
  out.begin_object();
  for (const model::ScoredToken& scored : token.most_likely) write(scored);
  write(token.chosen);
  out.end_object();
}

}  // namespace

std::size_t write_logprobs(JsonWriter& out, std::span<const model::TokenLogprob> tokens,
                           std::size_t offset) {
  out.begin_object();
  out.key("tokens").begin_array();
  for (const auto& token : tokens) out.string(shown(token.chosen.bytes));
  out.end_array();
  out.key("token_logprobs").begin_array();
  for (const auto& token : tokens) out.number(token.chosen.logprob);
  out.end_array();
  out.key("top_logprobs").begin_array();
  for (const auto& token : tokens) write_top(out, token);
  out.end_array();
  out.key("text_offset").begin_array();
  for (const auto& token : tokens) {
    out.integer(offset);
    offset += characters(token.chosen.bytes);
  }
  out.end_array();
  out.end_object();
  return offset;
}

}  // namespace weir::serve
