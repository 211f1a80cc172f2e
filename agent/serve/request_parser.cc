// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/request_parser.h"

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>
#include <charconv>

namespace weir::serve {
namespace http = boost::beast::http;

struct RequestParser::Impl {
  http::request_parser<http::string_body> parser;
  std::string failure;
};

RequestParser::RequestParser(std::uint64_t max_body_bytes) : impl_(std::make_unique<Impl>()) {
  impl_->parser.header_limit(kMaxHeaderBytes);
  impl_->parser.body_limit(max_body_bytes);
}

RequestParser::~RequestParser() = default;

RequestParser::Progress RequestParser::put(std::string_view bytes) {
  auto& parser = impl_->parser;
  const bool had_header = parser.is_header_done();
  parser.eager(had_header);
  boost::beast::error_code error;
  Progress progress;
  progress.consumed = parser.put(boost::asio::const_buffer(bytes.data(), bytes.size()), error);
  if (error == http::error::need_more) {
    // The parser rescans an unfinished header, and counts it only then. What it leaves of a body is
    // a chunk's size line or the trailer, and it sets no bound to these.
    if (!had_header && bytes.size() > kMaxHeaderBytes) {
      progress.status = Status::kHeaderTooLarge;
    } else if (had_header && bytes.size() - progress.consumed > kMaxHeaderBytes) {
      impl_->failure = "the line before a chunk, or the trailer, exceeds " +
                       std::to_string(kMaxHeaderBytes) + " bytes";
      progress.status = Status::kMalformed;
    }
  } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    progress.status = Status::kHeaderTooLarge;
  } else if (error == http::error::body_limit) {
    progress.status = Status::kBodyTooLarge;
  } else if (error) {
    impl_->failure = error.message();
    progress.status = Status::kMalformed;
  } else if (!had_header && parser.is_header_done()) {
    progress.status = Status::kHeaderDone;
  } else if (parser.is_done()) {
    progress.status = Status::kDone;
  }
  return progress;
}

const std::string& RequestParser::failure() const { return impl_->failure; }
bool RequestParser::header_done() const { return impl_->parser.is_header_done(); }
bool RequestParser::done() const { return impl_->parser.is_done(); }

std::string_view RequestParser::method() const { return impl_->parser.get().method_string(); }

std::string_view RequestParser::target() const { return impl_->parser.get().target(); }

std::optional<std::string_view> RequestParser::field(std::string_view name) const {
  const auto& fields = impl_->parser.get();
  const auto found = fields.find(name);
  if (found == fields.end()) return std::nullopt;
  return found->value();
}

std::size_t RequestParser::count(std::string_view name) const {
  return impl_->parser.get().count(name);
}

bool RequestParser::http_1_0() const { return impl_->parser.get().version() < 11; }
bool RequestParser::keep_alive() const {
  return impl_->parser.get().keep_alive() && !unknown_encoding();
}

bool RequestParser::unknown_encoding() const {
  const auto encoding = field("transfer-encoding");
  return encoding.has_value() && !boost::beast::iequals(*encoding, "chunked");
}

std::optional<std::uint64_t> RequestParser::content_length() const {
  // Read from the field: the parser tells its own only after it accepted it.
  const auto text = field("content-length");
  std::uint64_t length = 0;
  if (!text.has_value()) return std::nullopt;
  const auto [end, status] = std::from_chars(text->data(), text->data() + text->size(), length);
  if (status != std::errc{} || end != text->data() + text->size()) return std::nullopt;
  return length;
}

bool RequestParser::chunked() const { return impl_->parser.chunked(); }
std::string RequestParser::take_body() { return std::move(impl_->parser.get().body()); }

std::string_view reason_phrase(unsigned status) {
  return http::obsolete_reason(http::int_to_status(status));
}

std::optional<std::string> path_of(std::string_view target) {
  constexpr std::string_view kScheme = "http://";
  if (target.starts_with(kScheme)) {
    const auto slash = target.find('/', kScheme.size());
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  target = target.substr(0, target.find_first_of("?#"));
  if (!target.starts_with('/')) return std::nullopt;
  std::string path;
  for (std::size_t i = 0; i < target.size(); ++i) {
    if (target[i] != '%') {
      path += target[i];
      continue;
    }
    const std::string_view digits = target.substr(i + 1, 2);
    unsigned value = 0;
    const auto [end, status] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (digits.size() != 2 || status != std::errc{} || end != digits.data() + 2 || value == 0) {
      return std::nullopt;
    }
    path += static_cast<char>(value);
    i += 2;
  }
  return path;
}

}  // namespace weir::serve
