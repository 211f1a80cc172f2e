// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/sampling_fields.h"

#include <algorithm>
#include <boost/json/object.hpp>
#include <charconv>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "agent/model/grammar.h"
#include "agent/model/json_schema_grammar.h"

namespace weir::serve {

namespace json = boost::json;

namespace {

constexpr double kMaxTemperature = 2;     // OpenAI's
constexpr double kMaxPenalty = 2;         // OpenAI's
constexpr double kMaxBias = 100;          // OpenAI's
constexpr std::int64_t kMaxLogprobs = 5;  // OpenAI's
constexpr std::size_t kMaxBiases = 1024;  // each is looked up for each token
constexpr double kMinRepetitionPenalty = 0.1;
constexpr double kMaxRepetitionPenalty = 10;

/// The value of `name`, read by `read`, goes to `target`.
void read_number(JsonFields& fields, std::string_view name, double min, double max, float& target) {
  if (const auto number = fields.number(name, min, max)) target = static_cast<float>(*number);
}

void read_seed(JsonFields& fields, model::SamplingParams& sampling) {
  const auto seed = fields.integer("seed", std::numeric_limits<std::int64_t>::min(),
                                   std::numeric_limits<std::int64_t>::max());
  if (!seed) return;
  // The sampler's seed has 32 bits: fold, so that seeds that differ above them differ still.
  const auto bits = static_cast<std::uint64_t>(*seed);
  sampling.seed = static_cast<std::uint32_t>(bits ^ (bits >> 32U));
}

void read_penalties(JsonFields& fields, model::SamplingParams& sampling) {
  const bool two_names =
      fields.find("repetition_penalty") != nullptr && fields.find("repeat_penalty") != nullptr;
  if (two_names) {
    fields.reject("repeat_penalty", "is another name of \"repetition_penalty\": give one of them");
  }
  for (const char* const name : {"repetition_penalty", "repeat_penalty"}) {
    read_number(fields, name, kMinRepetitionPenalty, kMaxRepetitionPenalty,
                sampling.repetition_penalty);
  }
  read_number(fields, "frequency_penalty", -kMaxPenalty, kMaxPenalty, sampling.frequency_penalty);
  read_number(fields, "presence_penalty", -kMaxPenalty, kMaxPenalty, sampling.presence_penalty);
  if (const auto window =
          fields.integer("repeat_last_n", 0, model::SamplingParams::kMaxPenaltyWindow)) {
    sampling.penalty_window = static_cast<std::uint32_t>(*window);
  }
}

/// {"50256": -100}: JSON has strings for keys only.
void read_biases(JsonFields& fields, model::SamplingParams& sampling) {
  const json::object* biases = fields.nested("logit_bias");
  if (biases == nullptr) return;
  if (biases->size() > kMaxBiases) {
    return fields.reject("logit_bias", "must have at most " + std::to_string(kMaxBiases) +
                                           " tokens, not " + std::to_string(biases->size()));
  }
  for (const auto& member : *biases) {
    const std::string_view key(member.key().data(), member.key().size());
    model::LogitBias bias;
    const auto [end, status] = std::from_chars(key.data(), key.data() + key.size(), bias.token);
    if (status != std::errc{} || end != key.data() + key.size() || bias.token < 0) {
      return fields.reject("logit_bias",
                           "must have ids of tokens for keys, not \"" + printable(key) + '"');
    }
    JsonFields values(*biases);
    const auto value = values.number(key, -kMaxBias, kMaxBias);
    if (!value) {
      return fields.reject("logit_bias", "must have numbers in [-100, 100] for values, as " +
                                             printable(key) + " has not");
    }
    bias.bias = static_cast<float>(*value);
    const auto same = [&](const model::LogitBias& other) { return other.token == bias.token; };
    if (std::any_of(sampling.logit_bias.begin(), sampling.logit_bias.end(), same)) {
      return fields.reject("logit_bias", "names token " + std::to_string(bias.token) + " twice");
    }
    sampling.logit_bias.push_back(bias);
  }
}

// ---- what form the text has ---------------------------------------------------------------------

void use_grammar(JsonFields& fields, std::string_view field, std::string_view wanted,
                 Result<std::string> text, model::SamplingParams& sampling) {
  if (!text) {
    return fields.reject(field, "must " + std::string(wanted) + ": " + text.error().message);
  }
  auto grammar = model::Grammar::parse(*std::move(text));
  if (!grammar) {
    return fields.reject(field, "must " + std::string(wanted) + ": " + grammar.error().message);
  }
  sampling.grammar = *std::move(grammar);
}

void use_schema(JsonFields& fields, std::string_view field, const json::value& schema,
                model::SamplingParams& sampling) {
  use_grammar(fields, field, "hold a schema that is supported", model::json_schema_grammar(schema),
              sampling);
}

/// {"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema":
/// {...}}}.
void read_response_format(JsonFields& fields, model::SamplingParams& sampling) {
  constexpr std::string_view kField = "response_format";
  const json::object* format = fields.nested(kField);
  if (format == nullptr) return;
  const json::value* type = format->if_contains("type");
  const std::string_view name =
      type != nullptr && type->is_string() ? std::string_view(type->get_string()) : "";
  if (name == "text") return;
  if (name == "json_object") {
    return use_grammar(fields, kField, "be usable", model::json_object_grammar(), sampling);
  }
  if (name != "json_schema") {
    return fields.reject(kField, R"(must have a "type": "text", "json_object" or "json_schema")");
  }
  const json::value* outer = format->if_contains("json_schema");
  const json::value* schema =
      outer != nullptr && outer->is_object() ? outer->get_object().if_contains("schema") : nullptr;
  if (schema == nullptr) {
    return fields.reject(kField,
                         R"(of type "json_schema" must have {"json_schema": {"schema": {...}}})");
  }
  use_schema(fields, kField, *schema, sampling);
}

void read_form(JsonFields& fields, model::SamplingParams& sampling) {
  std::string_view first;
  for (const std::string_view field : {"grammar", "json_schema", "response_format"}) {
    const json::value* value = fields.find(field);
    if (value == nullptr) continue;
    if (!first.empty()) {
      return fields.reject(field,
                           "cannot stand beside \"" + std::string(first) + "\": give one of them");
    }
    first = field;
  }
  if (const auto text = fields.string("grammar")) {
    use_grammar(fields, "grammar", "be GBNF", *text, sampling);
  } else if (const json::value* schema = fields.find("json_schema")) {
    use_schema(fields, "json_schema", *schema, sampling);
  } else {
    read_response_format(fields, sampling);
  }
}

}  // namespace

void read_sampling(JsonFields& fields, model::SamplingParams& sampling) {
  read_number(fields, "temperature", 0, kMaxTemperature, sampling.temperature);
  if (const auto top_p = fields.number("top_p", 0, 1, true)) {
    // Not 0, which means nothing, where a float cannot hold the value.
    sampling.top_p = std::max(static_cast<float>(*top_p), std::numeric_limits<float>::min());
  }
  if (const auto top_k = fields.integer("top_k", -1, std::numeric_limits<std::int32_t>::max())) {
    sampling.top_k = static_cast<std::int32_t>(*top_k);
  }
  read_number(fields, "min_p", 0, 1, sampling.min_p);
  read_seed(fields, sampling);
  read_penalties(fields, sampling);
  read_biases(fields, sampling);
  if (const auto logprobs = fields.integer("logprobs", 0, kMaxLogprobs)) {
    sampling.logprobs = static_cast<std::uint32_t>(*logprobs);
  }
  read_form(fields, sampling);
}

}  // namespace weir::serve
