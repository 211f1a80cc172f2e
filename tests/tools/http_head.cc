// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/http_head.h"

#include <algorithm>
#include <charconv>
#include <string>

namespace weir::tools {
namespace {

constexpr std::size_t kMaxHeadBytes = 64UL * 1024;

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool same_text(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

Result<std::optional<HttpHead>> parse_http_head(std::string_view bytes) {
  const auto end = bytes.find("\r\n\r\n");
  if (end == std::string_view::npos) {
    if (bytes.size() <= kMaxHeadBytes) return std::optional<HttpHead>();
    return make_error(Code::kInvalidArgument, "HTTP head is longer than 65536 bytes");
  }
  HttpHead head;
  head.head_bytes = end + 4;

  std::string_view rest = bytes.substr(0, end + 2);  // every line in it ends with CRLF
  std::string_view line = rest.substr(0, rest.find("\r\n"));
  rest.remove_prefix(line.size() + 2);
  const auto first_space = line.find(' ');
  if (first_space == std::string_view::npos) {
    return make_error(Code::kInvalidArgument,
                      "HTTP start line has one word: \"" + std::string(line) + "\"");
  }
  // A response may leave out the reason, with or without the space before it.
  const auto second_space = std::min(line.find(' ', first_space + 1), line.size());
  head.start_line = {line.substr(0, first_space),
                     line.substr(first_space + 1, second_space - first_space - 1),
                     line.substr(std::min(second_space + 1, line.size()))};

  while (!rest.empty()) {
    line = rest.substr(0, rest.find("\r\n"));
    rest.remove_prefix(line.size() + 2);
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) {
      return make_error(Code::kInvalidArgument,
                        "HTTP header without a colon: \"" + std::string(line) + "\"");
    }
    const std::string_view name = line.substr(0, colon);
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (same_text(name, "content-length")) {
      const char* const value_end = value.data() + value.size();
      const auto [stop, status] = std::from_chars(value.data(), value_end, head.content_length);
      if (status != std::errc{} || stop != value_end) {
        return make_error(Code::kInvalidArgument,
                          "Content-Length is not a number: \"" + std::string(value) + "\"");
      }
    } else if (same_text(name, "connection")) {
      head.connection_close = same_text(value, "close");
    } else if (same_text(name, "transfer-encoding")) {
      head.chunked = same_text(value, "chunked");
    }
  }
  return std::optional<HttpHead>(head);
}

}  // namespace weir::tools
