// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/generation_json.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/monotonic_resource.hpp>
#include <limits>
#include <variant>

#include "agent/serve/ids.h"
#include "agent/serve/json_fields.h"
#include "agent/serve/json_writer.h"
#include "agent/serve/logprobs_json.h"
#include "agent/serve/model_call.h"
#include "agent/serve/sampling_fields.h"

namespace weir::serve {
namespace json = boost::json;
namespace {

constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kDefaultCompletionTokens = 16;  // OpenAI's
constexpr std::size_t kMaxStops = 16;                  // OpenAI allows 4
constexpr std::size_t kMaxStopBytes = 256;

/// The body of a request as an object. That of most has room where the Document itself is, on the
/// stack; others take more from the heap.
class Document {
 public:
  explicit Document(std::string_view body)
      : storage_(memory_.data(), memory_.size()), parsed_(parse_json_object(body, &storage_)) {}

  /// Null: there is an object.
  [[nodiscard]] const ApiError* error() const { return std::get_if<ApiError>(&parsed_); }
  [[nodiscard]] const json::object& object() const { return std::get<json::object>(parsed_); }

 private:
  std::array<unsigned char, 4096> memory_;  // not initialised: it need not be
  json::monotonic_resource storage_;
  Outcome<json::object> parsed_;
};

/// The fields that both protocols have.
void read_common(JsonFields& fields, GenerationCall& call, TimePoint now) {
  const CallTerms terms = read_terms(fields, now);
  call.model = terms.model;
  call.priority = terms.priority;
  model::GenerationRequest& request = *call.request;
  if (const auto tokens = fields.integer("max_tokens", 1, kMaxInt32)) {
    request.max_tokens = static_cast<std::uint32_t>(*tokens);
  }
  request.deadline = terms.deadline;
  read_sampling(fields, request.sampling);
  request.stop = fields.strings("stop", kMaxStops, kMaxStopBytes);
}

/// OpenAI's options that would change the result and are not implemented: refused rather than
/// silently ignored, unless they have the value that means "off".
void refuse_unsupported(JsonFields& fields) {
  if (const auto n = fields.integer("n", 1, 128); n.value_or(1) != 1) {
    fields.reject("n",
                  "must be 1: one completion per request is supported, not " + std::to_string(*n));
  }
  if (const auto best_of = fields.integer("best_of", 1, 128); best_of.value_or(1) != 1) {
    fields.reject("best_of", "must be 1: one completion per request is supported, not " +
                                 std::to_string(*best_of));
  }
  if (fields.boolean("echo").value_or(false)) {
    fields.reject("echo", "must be false: returning the prompt is not supported");
  }
  if (!fields.string("suffix").value_or("").empty()) {
    fields.reject("suffix", "must be empty: insertion is not supported");
  }
}

/// OpenAI's prompt may be a list; a list of one string means that string.
std::string read_completion_prompt(JsonFields& fields) {
  const json::value* prompt = fields.find("prompt");
  const json::array* list = prompt == nullptr ? nullptr : prompt->if_array();
  if (list == nullptr) {
    fields.require("prompt");
    return fields.string("prompt").value_or("");
  }
  if (list->size() == 1 && list->front().is_string()) {
    const json::string& text = list->front().get_string();
    return {text.data(), text.size()};
  }
  fields.reject("prompt",
                "must be one string (or a list of one): lists of prompts and of tokens are not "
                "supported");
  return {};
}

std::string_view finish_reason(model::FinishReason reason) {
  return reason == model::FinishReason::kStop ? "stop" : "length";
}

void write_usage(JsonWriter& out, const model::Usage& usage) {
  out.key("usage").begin_object();
  out.key("prompt_tokens").integer(usage.prompt_tokens);
  out.key("completion_tokens").integer(usage.completion_tokens);
  out.key("total_tokens").integer(std::uint64_t{usage.prompt_tokens} + usage.completion_tokens);
  if (usage.cached_tokens > 0) {
    out.key("prompt_tokens_details").begin_object();
    out.key("cached_tokens").integer(usage.cached_tokens);
    out.end_object();
  }
  out.end_object();
}

/// Begins the object.
void write_completion_head(JsonWriter& out, const GenerationNames& names) {
  out.begin_object();
  out.key("id").string(names.id);
  out.key("object").string("text_completion");
  out.key("created").integer(names.created_unix_seconds);
  out.key("model").string(names.model);
}

void write_one_choice(JsonWriter& out, const GeneratedText& piece, std::size_t& offset,
                      std::optional<model::FinishReason> reason) {
  out.key("choices").begin_array();
  out.begin_object();
  out.key("text").string(piece.text);
  out.key("index").integer(0);
  out.key("logprobs");
  if (piece.logprobs.has_value()) {
    offset = write_logprobs(out, *piece.logprobs, offset);
  } else {
    out.null();
  }
  out.key("finish_reason");
  if (reason.has_value()) {
    out.string(finish_reason(*reason));
  } else {
    out.null();
  }
  out.end_object();
  out.end_array();
}

// What comes before and after the object of an event.
constexpr std::string_view kEventBegin = "data: ";
constexpr std::string_view kEventEnd = "\n\n";
// Room for everything in an answer that is not its text.
constexpr std::size_t kAroundText = 384;

std::string choice_event(const GenerationNames& names, const GeneratedText& piece,
                         std::size_t& offset, std::optional<model::FinishReason> reason) {
  std::string event;
  event.reserve(kAroundText + piece.text.size());
  event += kEventBegin;
  JsonWriter out(event);
  write_completion_head(out, names);
  write_one_choice(out, piece, offset, reason);
  // OpenAI: with include_usage every event has the field, and only the last one a value.
  if (names.include_usage) out.key("usage").null();
  out.end_object();
  event += kEventEnd;
  return event;
}

}  // namespace

Outcome<GenerationCall> parse_infer(std::string_view body, TimePoint now) {
  const Document document(body);
  if (document.error() != nullptr) return *document.error();
  JsonFields fields(document.object());
  GenerationCall call;
  call.request = std::make_shared<model::GenerationRequest>();
  call.request->id = make_id("infer-");
  fields.require("prompt");
  call.request->prompt = fields.string("prompt").value_or("");
  read_common(fields, call, now);
  if (fields.error().has_value()) return *fields.error();
  return call;
}

Outcome<GenerationCall> parse_completion(std::string_view body, TimePoint now) {
  const Document document(body);
  if (document.error() != nullptr) return *document.error();
  JsonFields fields(document.object());
  GenerationCall call;
  call.request = std::make_shared<model::GenerationRequest>();
  call.request->id = make_id("cmpl-");
  call.request->max_tokens = kDefaultCompletionTokens;
  // OpenAI samples from the whole distribution unless told otherwise, and has no top_k.
  call.request->sampling.temperature = 1;
  call.request->sampling.top_p = 1;
  call.request->sampling.top_k = 0;
  call.request->prompt = read_completion_prompt(fields);
  read_common(fields, call, now);
  refuse_unsupported(fields);
  call.stream = fields.boolean("stream").value_or(false);
  std::optional<ApiError> nested_error;
  if (const json::object* options = fields.nested("stream_options")) {
    JsonFields nested(*options);
    call.include_usage = nested.boolean("include_usage").value_or(false);
    nested_error = nested.error();
  }
  if (fields.error().has_value()) return *fields.error();
  if (nested_error.has_value()) return *std::move(nested_error);
  return call;
}

std::string infer_result(const GenerationNames& names, const GeneratedText& text,
                         const model::Completion& completion) {
  std::string body;
  body.reserve(kAroundText + text.text.size());
  JsonWriter out(body);
  out.begin_object();
  out.key("id").string(names.id);
  out.key("model").string(names.model);
  out.key("result").string(text.text);
  if (text.logprobs.has_value()) {
    out.key("logprobs");
    write_logprobs(out, *text.logprobs, 0);
  }
  out.key("finish_reason").string(finish_reason(completion.reason));
  write_usage(out, completion.usage);
  out.key("timings").begin_object();
  out.key("queued_ms").milliseconds(completion.queued);
  out.key("first_token_ms").milliseconds(completion.first_token);
  out.key("total_ms").milliseconds(completion.total);
  out.end_object();
  out.end_object();
  return body;
}

std::string completion_result(const GenerationNames& names, const GeneratedText& text,
                              const model::Completion& completion) {
  std::string body;
  body.reserve(kAroundText + text.text.size());
  JsonWriter out(body);
  write_completion_head(out, names);
  std::size_t offset = 0;
  write_one_choice(out, text, offset, completion.reason);
  write_usage(out, completion.usage);
  out.end_object();
  return body;
}

std::string text_event(const GenerationNames& names, const GeneratedText& piece,
                       std::size_t& offset) {
  return choice_event(names, piece, offset, std::nullopt);
}

std::string closing_events(const GenerationNames& names, const model::Completion& completion) {
  std::size_t offset = 0;  // no token is in it
  std::string events = choice_event(names, {}, offset, completion.reason);
  if (names.include_usage) {
    events += kEventBegin;
    JsonWriter out(events);
    write_completion_head(out, names);
    out.key("choices").begin_array();
    out.end_array();
    write_usage(out, completion.usage);
    out.end_object();
    events += kEventEnd;
  }
  return events + "data: [DONE]\n\n";
}

std::string error_event(const ApiError& error) { return "data: " + error_json(error) + "\n\n"; }

}  // namespace weir::serve
