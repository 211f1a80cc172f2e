// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parse.hpp>
#include <optional>

namespace weir::replay {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxCodeBytes = 48;
constexpr std::size_t kMaxMessageBytes = 240;
constexpr std::size_t kMaxEventBytes = 4 * 1024 * 1024;

/// Parses with memory on the stack: most bodies and events fit.
class Parsed {
 public:
  explicit Parsed(std::string_view text) : memory_(arena_.data(), arena_.size()) {
    json::error_code failure;
    value_ = json::parse({text.data(), text.size()}, failure, &memory_);
    if (failure) value_ = nullptr;
  }
  /// Null unless it is an object.
  [[nodiscard]] const json::object* object() const { return value_.if_object(); }

 private:
  std::array<unsigned char, 4096> arena_;  // NOLINT: not read before it is written
  json::monotonic_resource memory_;
  json::value value_ = json::value(json::storage_ptr(&memory_));
};

const json::object* object_in(const json::object* object, json::string_view name) {
  const json::value* const value = object == nullptr ? nullptr : object->if_contains(name);
  return value == nullptr ? nullptr : value->if_object();
}

std::uint64_t count_in(const json::object* object, json::string_view name) {
  const json::value* const value = object == nullptr ? nullptr : object->if_contains(name);
  if (value == nullptr) return 0;
  if (value->is_uint64()) return value->get_uint64();
  return value->is_int64()
             ? static_cast<std::uint64_t>(std::max<std::int64_t>(value->get_int64(), 0))
             : 0;
}

/// The code of {"error":{"code"}}, else its type, as names that stay few.
std::string code_of(const json::object* body) {
  const json::object* const error = object_in(body, "error");
  for (const json::string_view name : {"code", "type"}) {
    const json::value* const value = error == nullptr ? nullptr : error->if_contains(name);
    if (value == nullptr || !value->is_string()) continue;
    std::string code(value->get_string().subview(0, kMaxCodeBytes));
    std::replace_if(
        code.begin(), code.end(), [](char c) { return c <= ' ' || c > '~'; }, '_');
    if (!code.empty()) return code;
  }
  return "no_code";
}

/// The message of {"error":{"message"}}, or of {"error":"..."} as other servers have it.
std::string message_of(const json::object* body) {
  const json::value* value = body == nullptr ? nullptr : body->if_contains("error");
  if (const json::object* const error = object_in(body, "error")) {
    value = error->if_contains("message");
  }
  if (value == nullptr || !value->is_string()) return {};
  std::string message(value->get_string().subview(0, kMaxMessageBytes));
  std::replace_if(
      message.begin(), message.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return message;
}

}  // namespace

Answer error_answer(std::string reason) {
  Answer answer;
  answer.kind = Answer::Kind::kError;
  answer.reason = std::move(reason);
  return answer;
}

Answer read_answer(unsigned status, std::string_view body) {
  const Parsed parsed(body);
  Answer answer;
  if (status / 100 == 2) {
    if (parsed.object() == nullptr) return error_answer(fmt::format("{} not_json", status));
    const json::object* const usage = object_in(parsed.object(), "usage");
    answer.prompt_tokens = count_in(usage, "prompt_tokens");
    answer.completion_tokens = count_in(usage, "completion_tokens");
    return answer;
  }
  answer.kind = status == 429 || status == 503 ? Answer::Kind::kRefused : Answer::Kind::kError;
  answer.reason = fmt::format("{} {}", status, code_of(parsed.object()));
  answer.message = message_of(parsed.object());
  return answer;
}

std::uint32_t EventStream::put(std::string_view bytes) {
  std::uint32_t texts = 0;
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    line_.append(bytes.substr(0, end));
    if (line_.size() + data_.size() > kMaxEventBytes) {
      error_ = "event_too_long";
      line_.clear();
      data_.clear();
    }
    if (end == std::string_view::npos) break;
    bytes.remove_prefix(end + 1);
    if (line_.ends_with('\r')) line_.pop_back();
    if (line_.empty()) {
      if (has_data_ && take_event(data_)) ++texts;
      data_.clear();
      has_data_ = false;
    } else if (line_.starts_with("data:")) {
      if (has_data_) data_ += '\n';
      data_.append(line_, line_.starts_with("data: ") ? 6 : 5);
      has_data_ = true;
    }
    line_.clear();  // other fields and comments mean nothing here
  }
  text_events_ += texts;
  return texts;
}

bool EventStream::take_event(std::string_view data) {
  if (data == "[DONE]") {
    done_ = true;
    return false;
  }
  const Parsed parsed(data);
  const json::object* const event = parsed.object();
  if (event == nullptr) {
    error_ = "not_json";
    return false;
  }
  const json::value* const error = event->if_contains("error");
  if (error != nullptr && !error->is_null()) {
    error_ = code_of(event);
    message_ = message_of(event);
    return false;
  }
  if (const json::object* const usage = object_in(event, "usage")) {
    prompt_tokens_ = count_in(usage, "prompt_tokens");
    completion_tokens_ = count_in(usage, "completion_tokens");
  }
  const json::value* const choices = event->if_contains("choices");
  const json::array* const list = choices == nullptr ? nullptr : choices->if_array();
  const json::object* const choice =
      list == nullptr || list->empty() ? nullptr : list->front().if_object();
  const json::value* const text = choice == nullptr ? nullptr : choice->if_contains("text");
  return text != nullptr && text->is_string() && !text->get_string().empty();
}

Answer EventStream::answer() const {
  if (!error_.empty()) {
    Answer failed = error_answer("stream_error " + error_);
    failed.message = message_;
    return failed;
  }
  if (!done_) return error_answer("stream_cut");
  Answer answer;
  answer.prompt_tokens = prompt_tokens_;
  // A server that sends no usage: an event is a token.
  answer.completion_tokens = completion_tokens_ > 0 ? completion_tokens_ : text_events_;
  return answer;
}

}  // namespace weir::replay
