// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/json_fields.h"

#include <array>
#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <sstream>

namespace weir::serve {
namespace json = boost::json;
namespace {

constexpr std::size_t kMaxDepth = 32;

// Not as Boost.JSON would write it: 2.5E0.
std::string shown(double number) {
  std::ostringstream text;
  text << number;
  return text.str();
}

/// The value as the client wrote it, cut to what fits in a message.
std::string shown(const json::value& value) {
  constexpr std::size_t kMaxShown = 60;
  std::string text = value.is_double() ? shown(value.get_double()) : json::serialize(value);
  if (text.size() <= kMaxShown) return text;
  std::size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;  // whole UTF-8
  return text.substr(0, end) + "...";
}

/// Also 16.0 and 1e3, as languages write them that have one type of number.
std::optional<std::int64_t> whole_number(const json::value& value) {
  constexpr double kMaxExact = 9007199254740992;  // 2^53
  if (const std::int64_t* integer = value.if_int64()) return *integer;
  if (!value.is_double()) return std::nullopt;
  const double number = value.get_double();
  if (!(std::abs(number) <= kMaxExact) || number != std::trunc(number)) return std::nullopt;
  return static_cast<std::int64_t>(number);
}

ApiError invalid_json(std::size_t position, std::string_view why) {
  return bad_request("invalid_json", "the body is not valid JSON: " + std::string(why) +
                                         " at byte " + std::to_string(position));
}

}  // namespace

Outcome<json::object> parse_json_object(std::string_view body, json::storage_ptr storage) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  std::array<unsigned char, 1024> stack;  // the parser's own, and larger on the heap if need be
  json::parser parser({}, options, stack.data(), stack.size());
  parser.reset(std::move(storage));
  json::error_code failure;
  const std::size_t consumed = parser.write_some(body.data(), body.size(), failure);
  if (failure) return invalid_json(consumed, failure.message());
  if (const auto extra = body.find_first_not_of(" \t\r\n", consumed);
      extra != std::string_view::npos) {
    return invalid_json(extra, "something follows the value");
  }
  json::value value = parser.release();
  if (!value.is_object()) {
    return bad_request("invalid_json", "the body must be a JSON object, not " + shown(value));
  }
  return std::move(value.get_object());
}

const json::value* JsonFields::find(std::string_view name) const {
  const json::value* value = object_.if_contains({name.data(), name.size()});
  return value == nullptr || value->is_null() ? nullptr : value;
}

void JsonFields::reject(std::string_view name, std::string message) {
  if (error_.has_value()) return;
  error_ = bad_request("invalid_value", "\"" + std::string(name) + "\" " + std::move(message),
                       std::string(name));
}

void JsonFields::require(std::string_view name) {
  if (find(name) == nullptr) reject(name, "is required");
}

void JsonFields::wrong_type(std::string_view name, const json::value& value,
                            std::string_view wanted) {
  reject(name, "must be " + std::string(wanted) + ", not " + shown(value));
}

std::optional<std::string> JsonFields::string(std::string_view name) {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  const json::string* text = value->if_string();
  if (text == nullptr) {
    wrong_type(name, *value, "a string");
    return std::nullopt;
  }
  return std::string(text->data(), text->size());
}

std::optional<std::int64_t> JsonFields::integer(std::string_view name, std::int64_t min,
                                                std::int64_t max) {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<std::int64_t> number = whole_number(*value);
  if (number.has_value() && *number >= min && *number <= max) return *number;
  wrong_type(name, *value, "an integer in " + std::to_string(min) + ".." + std::to_string(max));
  return std::nullopt;
}

std::optional<double> JsonFields::number(std::string_view name, double min, double max,
                                         bool open_at_min) {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) {
    const double number = value->to_number<double>();
    if (std::isfinite(number) && number <= max && (open_at_min ? number > min : number >= min)) {
      return number;
    }
  }
  wrong_type(
      name, *value,
      "a number in " + std::string(open_at_min ? "(" : "[") + shown(min) + ", " + shown(max) + "]");
  return std::nullopt;
}

std::optional<bool> JsonFields::boolean(std::string_view name) {
  const json::value* value = find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_bool()) return value->get_bool();
  wrong_type(name, *value, "true or false");
  return std::nullopt;
}

std::vector<std::string> JsonFields::strings(std::string_view name, std::size_t max_items,
                                             std::size_t max_bytes) {
  const json::value* value = find(name);
  std::vector<std::string> result;
  if (value == nullptr) return result;
  const auto take = [&](const json::value& item) {
    const json::string* text = item.if_string();
    if (text == nullptr) {
      wrong_type(name, item, "a string or a list of strings");
    } else if (text->empty() || text->size() > max_bytes) {
      reject(name, "must hold strings of 1.." + std::to_string(max_bytes) + " bytes, not " +
                       std::to_string(text->size()));
    } else {
      result.emplace_back(text->data(), text->size());
    }
  };
  const json::array* list = value->if_array();
  if (list == nullptr) {
    take(*value);
  } else if (list->size() > max_items) {
    reject(name, "must hold at most " + std::to_string(max_items) + " strings, not " +
                     std::to_string(list->size()));
  } else {
    for (const json::value& item : *list) take(item);
  }
  return result;
}

const json::object* JsonFields::nested(std::string_view name) {
  const json::value* value = find(name);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) wrong_type(name, *value, "an object");
  return value->if_object();
}

}  // namespace weir::serve
