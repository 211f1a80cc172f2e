// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/request_parser.h"

#include <algorithm>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <boost/beast/http/status.hpp>
#include <charconv>
#include <utility>
#include <vector>

namespace weir::serve {
namespace http = boost::beast::http;
using boost::beast::error_code;
using boost::beast::iequals;
using boost::beast::string_view;

namespace {

/// What was read of a request. There are few fields, and these are looked for by name a few times:
/// so they stand one behind the other.
struct Content {
  struct Field {
    std::size_t begin = 0;  ///< of the name in `text`; the value is behind it
    std::size_t name_bytes = 0;
    std::size_t value_bytes = 0;
  };

  void clear() {
    text.clear();
    method_bytes = target_bytes = 0;
    version = 11;
    fields.clear();
    body.clear();
  }
  [[nodiscard]] std::string_view part(std::size_t begin, std::size_t bytes) const {
    return std::string_view(text).substr(begin, bytes);
  }
  [[nodiscard]] bool is_called(const Field& field, std::string_view name) const {
    return field.name_bytes == name.size() && iequals(part(field.begin, name.size()), name);
  }

  std::string text;  ///< method, target, fields
  std::size_t method_bytes = 0;
  std::size_t target_bytes = 0;
  int version = 11;
  std::vector<Field> fields;
  std::string body;
};

class Parser final : public http::basic_parser<true> {
 public:
  Parser(Content& content, std::uint64_t max_body_bytes) : content_(content) {
    header_limit(RequestParser::kMaxHeaderBytes);
    body_limit(max_body_bytes);
  }

 private:
  void on_request_impl(http::verb /*method*/, string_view method, string_view target, int version,
                       error_code& /*error*/) override {
    content_.text.append(method).append(target);
    content_.method_bytes = method.size();
    content_.target_bytes = target.size();
    content_.version = version;
  }

  void on_field_impl(http::field /*name*/, string_view name, string_view value,
                     error_code& /*error*/) override {
    if (is_header_done()) return;  // of a trailer, where nothing that is asked for may stand
    content_.fields.push_back({content_.text.size(), name.size(), value.size()});
    content_.text.append(name).append(value);
  }

  void on_body_init_impl(const boost::optional<std::uint64_t>& length,
                         error_code& /*error*/) override {
    if (length.has_value()) content_.body.reserve(*length);  // within the limit
  }

  std::size_t on_body_impl(string_view piece, error_code& /*error*/) override {
    content_.body.append(piece);
    return piece.size();
  }

  std::size_t on_chunk_body_impl(std::uint64_t /*left*/, string_view piece,
                                 error_code& /*error*/) override {
    content_.body.append(piece);
    return piece.size();
  }

  void on_response_impl(int /*code*/, string_view /*reason*/, int /*version*/,
                        error_code& /*error*/) override {}
  void on_header_impl(error_code& /*error*/) override {}
  void on_chunk_header_impl(std::uint64_t /*size*/, string_view /*extensions*/,
                            error_code& /*error*/) override {}
  void on_finish_impl(error_code& /*error*/) override {}

  Content& content_;
};

}  // namespace

struct RequestParser::Impl {
  std::uint64_t max_body_bytes = 0;
  Content content;
  std::optional<Parser> parser;  ///< always set
  std::string failure;
};

RequestParser::RequestParser(std::uint64_t max_body_bytes) : impl_(std::make_unique<Impl>()) {
  impl_->max_body_bytes = max_body_bytes;
  restart();
}

RequestParser::~RequestParser() = default;

void RequestParser::restart() {
  impl_->content.clear();
  impl_->parser.emplace(impl_->content, impl_->max_body_bytes);
  impl_->failure.clear();
}

RequestParser::Progress RequestParser::put(std::string_view bytes) {
  Parser& parser = *impl_->parser;
  const bool had_header = parser.is_header_done();
  parser.eager(had_header);
  error_code error;
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
bool RequestParser::header_done() const { return impl_->parser->is_header_done(); }
bool RequestParser::done() const { return impl_->parser->is_done(); }

std::string_view RequestParser::method() const {
  return impl_->content.part(0, impl_->content.method_bytes);
}

std::string_view RequestParser::target() const {
  return impl_->content.part(impl_->content.method_bytes, impl_->content.target_bytes);
}

std::optional<std::string_view> RequestParser::field(std::string_view name) const {
  const Content& content = impl_->content;
  for (const Content::Field& field : content.fields) {
    if (content.is_called(field, name)) {
      return content.part(field.begin + field.name_bytes, field.value_bytes);
    }
  }
  return std::nullopt;
}

std::size_t RequestParser::count(std::string_view name) const {
  const Content& content = impl_->content;
  return static_cast<std::size_t>(
      std::count_if(content.fields.begin(), content.fields.end(),
                    [&](const Content::Field& field) { return content.is_called(field, name); }));
}

bool RequestParser::http_1_0() const { return impl_->content.version < 11; }
bool RequestParser::keep_alive() const {
  return impl_->parser->keep_alive() && !unknown_encoding();
}

bool RequestParser::unknown_encoding() const {
  const auto encoding = field("transfer-encoding");
  return encoding.has_value() && !iequals(*encoding, "chunked");
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

bool RequestParser::chunked() const { return impl_->parser->chunked(); }
std::string RequestParser::take_body() { return std::exchange(impl_->content.body, {}); }

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
