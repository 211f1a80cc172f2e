// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/request_rules.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "agent/serve/ids.h"

namespace weir::serve {
namespace {

constexpr std::size_t kMaxRequestIdBytes = 128;

bool usable_request_id(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
}

}  // namespace

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](char x, char y) { return lower(x) == lower(y); });
}

std::string request_id(const RequestParser& parser) {
  const auto id = parser.field("x-request-id");
  return usable_request_id(id.value_or("")) ? std::string(*id) : make_id("req-");
}

ApiError parse_failure(const RequestParser& parser, RequestParser::Status status,
                       std::uint64_t max_body_bytes) {
  if (status == RequestParser::Status::kHeaderTooLarge) {
    ApiError error = bad_request("header_too_large",
                                 "the request line and header exceed " +
                                     std::to_string(RequestParser::kMaxHeaderBytes) + " bytes");
    error.status = 431;
    return error;
  }
  if (status == RequestParser::Status::kBodyTooLarge) {
    const auto length = parser.content_length();
    ApiError error = bad_request(
        "body_too_large", "the body " +
                              (length.has_value() ? "has " + std::to_string(*length) + " bytes"
                                                  : std::string("is longer")) +
                              "; at most " + std::to_string(max_body_bytes) +
                              " are accepted (max_body_bytes)");
    error.status = 413;
    return error;
  }
  return bad_request("malformed_request", "not an HTTP/1.1 request: " + parser.failure());
}

// A declared type is required: browsers send other types across sites without asking first.
std::optional<ApiError> content_type_error(const RequestParser& parser) {
  const auto unsupported = [](std::string message) {
    ApiError error = bad_request("unsupported_media_type", std::move(message));
    error.status = 415;
    return error;
  };
  if (const auto encoding = parser.field("content-encoding");
      encoding.has_value() && !equal_ignoring_case(*encoding, "identity")) {
    return unsupported("Content-Encoding is not supported: send the body as it is");
  }
  const auto type = parser.field("content-type");
  std::string_view media = type.value_or("");
  media = media.substr(0, media.find(';'));
  while (media.ends_with(' ')) media.remove_suffix(1);
  if (equal_ignoring_case(media, "application/json")) return std::nullopt;
  return unsupported("Content-Type must be application/json" +
                     (type.has_value() ? ", not " + printable(media) : std::string()));
}

std::string_view http_date() {
  thread_local std::time_t cached_at = 0;
  thread_local std::array<char, 40> text{};
  thread_local std::size_t length = 0;
  const std::time_t now = std::time(nullptr);
  if (now != cached_at) {
    std::tm parts{};
    gmtime_r(&now, &parts);
    length = std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    cached_at = now;
  }
  return {text.data(), length};
}

}  // namespace weir::serve
