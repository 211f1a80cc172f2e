// SPDX-License-Identifier: Apache-2.0
#include "agent/base/json_text.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>

namespace weir {
namespace {

namespace json = boost::json;

std::string number_text(double number) {
  if (!std::isfinite(number)) return "null";
  const double size = std::abs(number);
  if (size < 1 || size >= 1e15) return fmt::format("{:.6g}", number);
  std::string text = fmt::format("{:.3f}", number);
  text.resize(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

void append(std::string& out, const json::value& value) {
  if (value.is_double()) {
    out += number_text(value.get_double());
  } else if (value.is_array()) {
    char separator = '[';
    for (const json::value& item : value.get_array()) {
      out += separator;
      append(out, item);
      separator = ',';
    }
    out += separator == '[' ? "[]" : "]";
  } else if (value.is_object()) {
    char separator = '{';
    for (const auto& [key, item] : value.get_object()) {
      out += separator;
      out += json::serialize(key);
      out += ':';
      append(out, item);
      separator = ',';
    }
    out += separator == '{' ? "{}" : "}";
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

std::string to_json_text(const json::value& value) {
  std::string out;
  append(out, value);
  return out;
}

}  // namespace weir
