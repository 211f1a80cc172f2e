// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/embeddings_json.h"

#include <algorithm>
#include <bit>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "agent/serve/ids.h"
#include "agent/serve/json_fields.h"
#include "agent/serve/json_writer.h"

namespace weir::serve {
namespace json = boost::json;
namespace {

using model::EmbeddingInput;

constexpr std::int64_t kMostDimensions = 65536;

std::string text_of(const json::string& text) { return {text.data(), text.size()}; }

std::string at(std::string_view name, std::size_t i) {
  return std::string(name) + "[" + std::to_string(i) + "]";
}

/// Unset: not one token after the other.
std::optional<EmbeddingInput::Tokens> read_tokens(const json::array& list) {
  EmbeddingInput::Tokens tokens;
  tokens.reserve(list.size());
  for (const json::value& item : list) {
    // Beyond 32 bits there is no vocabulary.
    if (!item.is_int64() || !std::in_range<std::int32_t>(item.get_int64())) return std::nullopt;
    tokens.push_back(static_cast<std::int32_t>(item.get_int64()));
  }
  return tokens;
}

/// Of a list that has such an item first, all are to be.
void read_texts(JsonFields& fields, const json::array& list, EmbeddingInput& input) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    const json::value& item = list[i];
    const json::array* const numbers = item.if_array();
    const json::string* const text = item.if_string();
    if (text != nullptr && !text->empty()) {
      input.texts.emplace_back(text_of(*text));
      continue;
    }
    auto tokens = numbers == nullptr ? std::nullopt : read_tokens(*numbers);
    if (!tokens || tokens->empty()) {
      fields.reject("input", "must hold texts that are not empty, or lists of tokens; " +
                                 at("input", i) + " is neither");
      return;
    }
    input.texts.emplace_back(*std::move(tokens));
  }
}

std::shared_ptr<const EmbeddingInput> read_input(JsonFields& fields) {
  auto input = std::make_shared<EmbeddingInput>();
  const json::value* const value = fields.find("input");
  if (value == nullptr) {
    fields.require("input");
    return input;
  }
  const json::array* const list = value->if_array();
  if (list == nullptr) {
    if (const auto text = fields.string("input")) {
      if (text->empty()) fields.reject("input", "must not be empty");
      input->texts.emplace_back(*text);
    }
    return input;
  }
  const bool is_tokens = !list->empty() && list->front().is_number();
  if (list->empty()) {
    fields.reject("input", "must not be empty");
  } else if (is_tokens) {
    if (auto tokens = read_tokens(*list)) {
      input->texts.emplace_back(*std::move(tokens));
    } else {
      fields.reject("input", "begins as a list of tokens, and holds what is no 32-bit integer");
    }
  } else if (list->size() > kMostTexts) {
    fields.reject("input", "must hold at most " + std::to_string(kMostTexts) + " texts, not " +
                               std::to_string(list->size()));
  } else {
    read_texts(fields, *list, *input);
  }
  return input;
}

/// Strings, or objects with a "text", as Jina and Cohere have it.
std::shared_ptr<const EmbeddingInput> read_documents(JsonFields& fields) {
  auto input = std::make_shared<EmbeddingInput>();
  fields.require("query");
  fields.require("documents");
  input->query = fields.string("query").value_or("");
  if (input->query->empty()) fields.reject("query", "must not be empty");
  const json::value* const value = fields.find("documents");
  const json::array* const list = value == nullptr ? nullptr : value->if_array();
  if (list == nullptr || list->empty() || list->size() > kMostTexts) {
    fields.reject("documents", "must be a list of 1.." + std::to_string(kMostTexts) + " texts");
    return input;
  }
  for (std::size_t i = 0; i < list->size(); ++i) {
    const json::value* item = &(*list)[i];
    if (const json::object* const object = item->if_object()) item = object->if_contains("text");
    const json::string* const text = item == nullptr ? nullptr : item->if_string();
    if (text == nullptr || text->empty()) {
      fields.reject("documents",
                    "must hold texts that are not empty, or objects with such a "
                    "\"text\"; " +
                        at("documents", i) + " is neither");
      return input;
    }
    input->texts.emplace_back(text_of(*text));
  }
  return input;
}

std::shared_ptr<model::GenerationRequest> make_request(
    std::string_view prefix, const CallTerms& terms, std::shared_ptr<const EmbeddingInput> input) {
  auto request = std::make_shared<model::GenerationRequest>();
  request->id = make_id(prefix);
  request->deadline = terms.deadline;
  request->max_tokens = 0;
  request->embedding = std::move(input);
  return request;
}

void write_usage(JsonWriter& out, const model::Usage& usage) {
  out.key("usage").begin_object();
  out.key("prompt_tokens").integer(usage.prompt_tokens);
  out.key("total_tokens").integer(usage.prompt_tokens);
  out.end_object();
}

/// The first `dimensions` of a vector of unit length, of unit length again.
std::vector<float> shortened(std::span<const float> vector, std::size_t dimensions) {
  std::vector<float> begin(vector.begin(),
                           vector.begin() + static_cast<std::ptrdiff_t>(dimensions));
  if (dimensions == vector.size()) return begin;
  double square = 0;
  for (const float value : begin) square += double{value} * double{value};
  if (square > 0) {
    const double scale = 1 / std::sqrt(square);
    for (float& value : begin) value = static_cast<float>(value * scale);
  }
  return begin;
}

}  // namespace

std::string base64_of(std::span<const float> values) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  bytes.reserve(values.size() * 4);
  for (const float value : values) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (unsigned shift = 0; shift < 32; shift += 8) {
      bytes += static_cast<char>(static_cast<unsigned char>(bits >> shift));
    }
  }
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      const auto byte = i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U;
      group = group << 8U | byte;
    }
    const std::size_t digits = std::min<std::size_t>(bytes.size() - i, 3) + 1;
    for (std::size_t k = 0; k < 4; ++k) {
      text += k < digits ? kDigits[group >> (18U - 6U * k) & 63U] : '=';
    }
  }
  return text;
}

Outcome<EmbeddingsCall> parse_embeddings(std::string_view body, TimePoint now) {
  auto parsed = parse_json_object(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  JsonFields fields(std::get<json::object>(parsed));
  EmbeddingsCall call;
  call.terms = read_terms(fields, now);
  auto input = read_input(fields);
  const auto format = fields.string("encoding_format").value_or("float");
  if (format != "float" && format != "base64") {
    fields.reject("encoding_format",
                  "must be \"float\" or \"base64\", not \"" + printable(format) + "\"");
  }
  call.format.base64 = format == "base64";
  if (const auto dimensions = fields.integer("dimensions", 1, kMostDimensions)) {
    call.format.dimensions = static_cast<std::size_t>(*dimensions);
  }
  if (fields.error().has_value()) return *fields.error();
  call.request = make_request("embd-", call.terms, std::move(input));
  return call;
}

Outcome<RerankCall> parse_rerank(std::string_view body, TimePoint now) {
  auto parsed = parse_json_object(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  JsonFields fields(std::get<json::object>(parsed));
  RerankCall call;
  call.terms = read_terms(fields, now);
  auto input = read_documents(fields);
  if (const auto top_n = fields.integer("top_n", 1, std::numeric_limits<std::int32_t>::max())) {
    call.format.top_n = static_cast<std::size_t>(*top_n);
  }
  call.format.return_documents = fields.boolean("return_documents").value_or(false);
  if (fields.error().has_value()) return *fields.error();
  call.format.input = input;
  call.request = make_request("rerank-", call.terms, std::move(input));
  call.format.id = call.request->id;
  return call;
}

Outcome<std::string> embeddings_result(std::string_view model, const EmbeddingsFormat& format,
                                       std::span<const float> values, std::size_t texts,
                                       const model::Usage& usage) {
  const std::size_t width = values.size() / texts;
  const std::size_t dimensions = format.dimensions.value_or(width);
  if (dimensions > width) {
    return bad_request("invalid_value",
                       "\"dimensions\" must be an integer in 1.." + std::to_string(width) +
                           ", which is what this model computes, not " + std::to_string(dimensions),
                       "dimensions");
  }
  std::string body;
  constexpr std::size_t kAround = 256;
  constexpr std::size_t kAroundEach = 64;
  const std::size_t bytes_per_value = format.base64 ? 6 : 13;
  body.reserve(kAround + texts * (kAroundEach + dimensions * bytes_per_value));
  JsonWriter out(body);
  out.begin_object();
  out.key("object").string("list");
  out.key("data").begin_array();
  for (std::size_t i = 0; i < texts; ++i) {
    const auto vector = shortened(values.subspan(i * width, width), dimensions);
    out.begin_object();
    out.key("object").string("embedding");
    out.key("index").integer(i);
    out.key("embedding");
    if (format.base64) {
      out.string(base64_of(vector));
    } else {
      out.begin_array();
      for (const float value : vector) out.number(value);
      out.end_array();
    }
    out.end_object();
  }
  out.end_array();
  out.key("model").string(model);
  write_usage(out, usage);
  out.end_object();
  return body;
}

std::string rerank_result(std::string_view model, const RerankFormat& format,
                          std::span<const float> scores, const model::Usage& usage) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  if (format.top_n && *format.top_n < order.size()) order.resize(*format.top_n);
  std::string body;
  JsonWriter out(body);
  out.begin_object();
  out.key("id").string(format.id);
  out.key("model").string(model);
  out.key("object").string("list");
  write_usage(out, usage);
  out.key("results").begin_array();
  for (const std::size_t i : order) {
    out.begin_object();
    out.key("index").integer(i);
    out.key("relevance_score").number(scores[i]);
    if (format.return_documents) {
      out.key("document").begin_object();
      out.key("text").string(std::get<std::string>(format.input->texts[i]));
      out.end_object();
    }
    out.end_object();
  }
  out.end_array();
  out.end_object();
  return body;
}

}  // namespace weir::serve
