// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/response_reader.h"

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/optional/optional.hpp>
#include <string>

namespace weir::replay {
namespace {

namespace http = boost::beast::http;
using boost::beast::error_code;
using boost::beast::string_view;

constexpr std::uint32_t kMaxHeaderBytes = 64 * 1024;

/// Keeps no field but those that are asked for: no allocation per response.
class Parser final : public http::basic_parser<false> {
 public:
  Parser(std::string& body, EventStream& events) : body_(body), events_(events) {
    header_limit(kMaxHeaderBytes);
    body_limit(ResponseReader::kMaxBodyBytes);
    eager(true);
  }

  [[nodiscard]] unsigned status() const { return status_; }
  /// 100 Continue, 103 Early Hints: another response follows. Nobody asked to switch protocols.
  [[nodiscard]] bool is_interim() const { return status_ / 100 == 1 && status_ != 101; }
  [[nodiscard]] bool is_stream() const { return stream_; }
  [[nodiscard]] bool degraded() const { return degraded_; }
  std::uint32_t take_texts() { return std::exchange(texts_, 0); }

 private:
  void on_request_impl(http::verb, string_view, string_view, int, error_code&) override {}
  void on_response_impl(int code, string_view, int, error_code&) override {
    status_ = static_cast<unsigned>(code);
  }
  void on_field_impl(http::field name, string_view text, string_view value, error_code&) override {
    if (name == http::field::content_type) {
      stream_ = boost::beast::iequals(value.substr(0, kEventStream.size()), kEventStream);
      // Its memory is bounded by its longest event.
      if (stream_) body_limit(boost::none);
    } else if (name == http::field::unknown && boost::beast::iequals(text, "x-weir-degraded")) {
      degraded_ = true;
    }
  }
  void on_header_impl(error_code&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}
  std::size_t on_body_impl(string_view bytes, error_code&) override { return take(bytes); }
  void on_chunk_header_impl(std::uint64_t, string_view, error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, string_view bytes, error_code&) override {
    return take(bytes);
  }
  void on_finish_impl(error_code&) override {}

  std::size_t take(string_view bytes) {
    if (stream_) {
      texts_ += events_.put({bytes.data(), bytes.size()});
    } else {
      body_.append(bytes.data(), bytes.size());
    }
    return bytes.size();
  }

  static constexpr std::string_view kEventStream = "text/event-stream";

  std::string& body_;
  EventStream& events_;
  unsigned status_ = 0;
  bool stream_ = false;
  bool degraded_ = false;
  std::uint32_t texts_ = 0;
};

}  // namespace

struct ResponseReader::Impl {
  std::string body;
  EventStream events;
  std::optional<Parser> parser;
  std::string kept;  ///< bytes that the parser wants to see again, with more behind them
  std::uint32_t new_texts = 0;
};

ResponseReader::ResponseReader() : impl_(std::make_unique<Impl>()) { begin(); }
ResponseReader::~ResponseReader() = default;

void ResponseReader::begin() {
  impl_->body.clear();
  impl_->events = EventStream();
  impl_->parser.emplace(impl_->body, impl_->events);
  impl_->kept.clear();
  impl_->new_texts = 0;
}

ResponseReader::State ResponseReader::put(std::string_view bytes) {
  Parser& parser = *impl_->parser;
  impl_->new_texts = 0;
  if (!impl_->kept.empty()) {
    impl_->kept.append(bytes);
    bytes = impl_->kept;
  }
  for (;;) {
    error_code failure;
    const std::size_t used =
        parser.put(boost::asio::const_buffer(bytes.data(), bytes.size()), failure);
    bytes.remove_prefix(used);
    impl_->new_texts += parser.take_texts();
    if (failure && failure != http::error::need_more) return State::kMalformed;
    if (parser.is_done() && parser.is_interim()) {
      impl_->parser.emplace(impl_->body, impl_->events);  // the answer itself is still to come
      if (bytes.empty()) break;
      continue;
    }
    if (parser.is_done()) return bytes.empty() ? State::kDone : State::kMalformed;
    if (failure == http::error::need_more || used == 0 || bytes.empty()) break;
  }
  // The parser bounds neither the line before a chunk nor the trailer.
  if (bytes.size() > kMaxHeaderBytes) return State::kMalformed;
  std::string rest(bytes);
  impl_->kept = std::move(rest);
  return State::kMore;
}

ResponseReader::State ResponseReader::put_end() {
  error_code failure;
  impl_->parser->put_eof(failure);
  return !failure && impl_->parser->is_done() ? State::kDone : State::kMalformed;
}

bool ResponseReader::begun() const { return impl_->parser->got_some() || !impl_->kept.empty(); }
std::uint32_t ResponseReader::new_texts() const { return impl_->new_texts; }
bool ResponseReader::keep_alive() const { return impl_->parser->keep_alive(); }

Answer ResponseReader::answer() const {
  const Parser& parser = *impl_->parser;
  const bool stream = parser.is_stream() && parser.status() / 100 == 2;
  Answer answer = stream ? impl_->events.answer() : read_answer(parser.status(), impl_->body);
  answer.degraded = parser.degraded();
  return answer;
}

}  // namespace weir::replay
