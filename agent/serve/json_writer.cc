// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/json_writer.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace weir::serve {
namespace {

// RFC 8259, section 7.
bool needs_escape(char c) { return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\'; }

void append_escaped(std::string& out, char c) {
  constexpr std::string_view kNamed = "\b\f\n\r\t\"\\";
  constexpr std::string_view kNames = "bfnrt\"\\";
  constexpr std::string_view kDigits = "0123456789abcdef";
  out += '\\';
  if (const std::size_t found = kNamed.find(c); found != std::string_view::npos) {
    out += kNames[found];
    return;
  }
  const auto byte = static_cast<unsigned char>(c);
  out.append("u00") += kDigits[byte >> 4U];
  out += kDigits[byte & 15U];
}

}  // namespace

JsonWriter& JsonWriter::key(std::string_view name) {
  out_.append(comma_ ? ",\"" : "\"").append(name).append("\":");
  comma_ = false;
  return *this;
}

JsonWriter& JsonWriter::text_key(std::string_view name) {
  string(name);
  out_ += ':';
  comma_ = false;
  return *this;
}

void JsonWriter::string(std::string_view text) {
  separate();
  out_ += '"';
  const char* plain = text.data();  // from here on nothing needs escaping
  const char* const end = text.data() + text.size();
  for (const char* at = plain; at != end; ++at) {
    if (!needs_escape(*at)) continue;
    out_.append(plain, at);
    append_escaped(out_, *at);
    plain = at + 1;
  }
  out_.append(plain, end);
  out_ += '"';
}

void JsonWriter::milliseconds(std::chrono::nanoseconds value) {
  constexpr std::int64_t kNsPerMs = 1'000'000;
  separate();
  std::int64_t ns = std::max<std::int64_t>(0, value.count());
  if (ns >= kNsPerMs) ns = (ns + 500) / 1000 * 1000;
  out_ += std::to_string(ns / kNsPerMs);
  // A 1 in front keeps the leading zeros of the fraction.
  std::array<char, 8> digits{};
  std::to_chars(digits.data(), digits.data() + digits.size(), kNsPerMs + ns % kNsPerMs);
  std::string_view fraction(digits.data() + 1, 6);
  fraction = fraction.substr(0, fraction.find_last_not_of('0') + 1);
  if (fraction.empty()) return;
  out_ += '.';
  out_ += fraction;
}

void JsonWriter::number(float value) {
  separate();
  std::array<char, 32> digits{};
  const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  out_.append(digits.data(), written.ptr);
}

void JsonWriter::null() {
  separate();
  out_ += "null";
}

}  // namespace weir::serve
