// SPDX-License-Identifier: Apache-2.0
#include "agent/model/embedding_tokens.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <variant>

namespace weir::model {

namespace {

/// A document may say "{query}", so one after the other, from the left.
std::string fill_in(std::string_view pattern, std::string_view query, std::string_view document) {
  constexpr std::string_view kQuery = "{query}";
  constexpr std::string_view kDocument = "{document}";
  std::string text;
  while (!pattern.empty()) {
    if (pattern.starts_with(kQuery)) {
      text += query;
      pattern.remove_prefix(kQuery.size());
    } else if (pattern.starts_with(kDocument)) {
      text += document;
      pattern.remove_prefix(kDocument.size());
    } else {
      text += pattern.front();
      pattern.remove_prefix(1);
    }
  }
  return text;
}

}  // namespace

TokenLists::TokenLists(std::span<const std::int32_t> joined)
    : joined_(joined), count_(joined.empty() ? 0 : static_cast<std::size_t>(joined.front())) {}

std::vector<std::int32_t> TokenLists::join(std::span<const std::vector<std::int32_t>> texts) {
  std::size_t tokens = 0;
  for (const auto& text : texts) tokens += text.size();
  std::vector<std::int32_t> joined;
  joined.reserve(1 + texts.size() + tokens);
  joined.push_back(static_cast<std::int32_t>(texts.size()));
  std::size_t end = 0;
  for (const auto& text : texts) {
    end += text.size();
    joined.push_back(static_cast<std::int32_t>(end));
  }
  for (const auto& text : texts) joined.insert(joined.end(), text.begin(), text.end());
  return joined;
}

std::span<const std::int32_t> TokenLists::operator[](std::size_t i) const {
  const auto begin = i == 0 ? std::size_t{0} : static_cast<std::size_t>(joined_[i]);
  const auto end = static_cast<std::size_t>(joined_[i + 1]);
  return joined_.subspan(first() + begin, end - begin);
}

EmbeddingTokenizer::EmbeddingTokenizer(const Weights& weights, std::uint32_t most_tokens)
    : weights_(weights.model),
      vocabulary_(llama_model_get_vocab(weights_.get())),
      most_tokens_(most_tokens) {}

Result<std::vector<std::int32_t>> EmbeddingTokenizer::tokenize(const EmbeddingInput& input) const {
  std::vector<Tokens> all;
  all.reserve(input.texts.size());
  for (std::size_t i = 0; i < input.texts.size(); ++i) {
    const auto at = [&] { return fmt::format("{}[{}]", input.query ? "documents" : "input", i); };
    auto tokens = input.query ? pair(*input.query, std::get<std::string>(input.texts[i]))
                              : text(input.texts[i]);
    if (!tokens) return std::move(tokens).error().context(at());
    if (tokens->empty()) {
      return make_error(Code::kInvalidArgument, at() + " is empty: it has no tokens");
    }
    if (tokens->size() > most_tokens_) {
      return make_error(
          Code::kInvalidArgument,
          fmt::format("{} has {} tokens{}; this model takes at most {}", at(), tokens->size(),
                      input.query ? " together with the query" : "", most_tokens_));
    }
    all.push_back(*std::move(tokens));
  }
  return TokenLists::join(all);
}

Result<EmbeddingTokenizer::Tokens> EmbeddingTokenizer::text(
    const EmbeddingInput::Text& text) const {
  if (const auto* string = std::get_if<std::string>(&text)) return vocabulary_.tokenize(*string);
  const auto& tokens = std::get<Tokens>(text);
  const std::int32_t known = vocabulary_.size();
  const auto wrong = std::find_if(tokens.begin(), tokens.end(),
                                  [&](std::int32_t token) { return token < 0 || token >= known; });
  if (wrong != tokens.end()) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("there is no token {}: this model has 0..{}", *wrong, known - 1));
  }
  return tokens;
}

// As those who train such models join the two, unless the file says how.
Result<EmbeddingTokenizer::Tokens> EmbeddingTokenizer::pair(const std::string& query,
                                                            const std::string& document) const {
  if (const char* pattern = llama_model_chat_template(weights_.get(), "rerank")) {
    return vocabulary_.tokenize(fill_in(pattern, query, document), Vocabulary::Special::kInText);
  }
  auto first = vocabulary_.tokenize(query, Vocabulary::Special::kNone);
  if (!first) return first;
  auto second = vocabulary_.tokenize(document, Vocabulary::Special::kNone);
  if (!second) return second;
  const llama_vocab* const vocab = llama_model_get_vocab(weights_.get());
  const llama_token sep = llama_vocab_sep(vocab);
  const llama_token eos = llama_vocab_eos(vocab) == LLAMA_TOKEN_NULL ? sep : llama_vocab_eos(vocab);
  Tokens tokens;
  const auto add = [&](bool wanted, llama_token token) {
    if (wanted && token != LLAMA_TOKEN_NULL) tokens.push_back(token);
  };
  add(llama_vocab_get_add_bos(vocab), llama_vocab_bos(vocab));
  tokens.insert(tokens.end(), first->begin(), first->end());
  add(llama_vocab_get_add_eos(vocab), eos);
  add(llama_vocab_get_add_sep(vocab), sep);
  tokens.insert(tokens.end(), second->begin(), second->end());
  add(llama_vocab_get_add_eos(vocab), eos);
  return tokens;
}

}  // namespace weir::model
