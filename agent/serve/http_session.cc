// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/http_session.h"

#include <sys/epoll.h>

#include <boost/asio/post.hpp>
#include <exception>

#include "agent/serve/ids.h"
#include "agent/serve/request_rules.h"

namespace weir::serve {
namespace asio = boost::asio;
using boost::system::error_code;
namespace {

// How much a client may send ahead of its answer. Beyond it the socket is left unread, and the
// client's leaving is noticed only when the answer is written.
constexpr std::size_t kMaxPipelinedBytes = 64 * 1024;
// Most heads are shorter.
constexpr std::size_t kHeadBytes = 256;
// Sent bytes are cut from the front of a stream's buffer when there are this many.
constexpr std::size_t kCompactBytes = 64 * 1024;
// After the last byte of a client that is still sending; see linger().
constexpr std::chrono::milliseconds kLingerTimeout{2000};
constexpr std::chrono::milliseconds kLongestLinger{30'000};
// What a draining server gives a request that has come in part.
constexpr std::chrono::milliseconds kHalfRequestGrace{2000};
// How long a draining server waits for the first request of a connection that it has accepted.
constexpr std::chrono::milliseconds kFirstRequestGrace{1000};

}  // namespace

void ServerShared::notify_drain() {
  if (!draining.load()) return;
  const std::lock_guard lock(drain_mutex);
  drained.notify_all();
}

HttpSession::HttpSession(ClientSocket socket, ServerShared& shared,
                         const std::shared_ptr<IoThread>& io)
    : socket_(std::move(socket)), timer_(io->context), shared_(shared), io_(*io), weak_io_(io) {
  shared_.connections.fetch_add(1);
}

void HttpSession::open() {
  io_.sessions.insert(shared_from_this());
  io_.counters.connection_opened();
  if (!io_.poller.watch(socket_.descriptor(), *this)) close();
}

void HttpSession::start() {
  open();
  set_read_deadline(shared_.options.idle_timeout);
  wait_readable();
}

void HttpSession::turn_away(const ApiError& error) {
  open();
  io_.counters.connection_refused();
  if (state_ == State::kClosed) return;
  state_ = State::kAnswering;
  request_ = std::make_shared<SharedRequest>();
  request_->id = make_id("req-");
  respond(serial_, to_response(error));
}

void HttpSession::drain() {
  if (state_ == State::kLingering) return end_reading_within(kLingerTimeout);
  if (state_ != State::kReading) return;
  if (parser_ || !inbox_.empty()) return end_reading_within(half_request_grace());
  if (shared_.handing_over.load()) {
    // For a request whose answer tells the client to come back on a new connection: a close may
    // cross one that is under way.
    set_read_deadline(shared_.options.hand_over_grace);
    return;
  }
  if (serial_ == 0) {
    // Accepted a moment ago: its first request may be under way, and a close would reset it.
    set_read_deadline(kFirstRequestGrace);
    return;
  }
  close();
}

// ---- reading ------------------------------------------------------------------------------------

void HttpSession::on_socket(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0 && std::exchange(waiting_writable_, false)) flush();
  if ((events & ~static_cast<std::uint32_t>(EPOLLOUT)) == 0) return;
  unread_ = true;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) client_ended_ = true;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) client_broke_off_ = true;
  if (waiting_readable_) return on_readable();
  if (client_broke_off_) abort();
}

void HttpSession::wait_readable() {
  if (state_ == State::kClosed || std::exchange(waiting_readable_, true) || !unread_) return;
  asio::post(io_.context, [self = shared_from_this()] { self->on_readable(); });
}

void HttpSession::on_readable() {
  if (state_ == State::kClosed || !waiting_readable_) return;
  const auto [outcome, count] = socket_.receive(io_.scratch);
  // A client's end is told once, and is to be found by every read from then on.
  unread_ = count == io_.scratch.size() || client_ended_;
  if (outcome == ClientSocket::Outcome::kWouldBlock) return;
  waiting_readable_ = false;
  if (outcome == ClientSocket::Outcome::kEnded) return client_left();
  if (state_ == State::kLingering) {  // nobody wants it any more
    set_read_deadline(kLingerTimeout);
    return wait_readable();
  }
  io_.lend(inbox_);
  inbox_.append(io_.scratch.data(), count);
  if (state_ == State::kReading) return advance();
  watch_client();
}

/// While a request is answered: the client may leave, or send more. Of one that has sent too much
/// to be read on a reset shows nevertheless; its FIN lies behind what is not read.
void HttpSession::watch_client() {
  if (inbox_.size() < kMaxPipelinedBytes) return wait_readable();
  if (client_broke_off_) asio::post(io_.context, [self = shared_from_this()] { self->abort(); });
}

// The end of the client's stream counts as its leaving: HTTP clients do not half-close.
void HttpSession::client_left() {
  if (state_ == State::kAnswering && answer_complete_) {
    client_left_ = true;  // what is left of the answer may still be wanted
    return;
  }
  // Requests sent ahead of the end: advance(), which is posted already, answers them and looks
  // again.
  if (state_ == State::kReading && !parser_ && !inbox_.empty()) return;
  abort();
}

void HttpSession::advance() {
  while (state_ == State::kReading) {
    if (inbox_.empty()) return wait_readable();
    if (!parser_) begin_request();
    const RequestParser::Progress progress = parser_->put(inbox_);
    inbox_.erase(0, progress.consumed);
    switch (progress.status) {
      case RequestParser::Status::kNeedMore:
        if (parser_->header_done()) bound_body();
        return wait_readable();
      case RequestParser::Status::kHeaderDone:
        if (const auto error = check_header()) {
          drop_body();
          return refuse(*error);
        }
        if (parser_->done()) return dispatch();
        if (inbox_.empty()) bound_body();
        break;
      case RequestParser::Status::kDone:
        return dispatch();
      default:
        return refuse(parse_failure(*parser_, progress.status, shared_.options.max_body_bytes));
    }
  }
}

void HttpSession::begin_request() {
  parser_ = io_.take_parser(shared_.options.max_body_bytes);
  request_ = std::make_shared<SharedRequest>();
  ++serial_;
  started_ = std::chrono::steady_clock::now();
  counted_ = true;
  io_.request_started();
  path_index_ = shared_.router.paths().size();  // "other", until a route is found
  read_until_.reset();
  if (shared_.draining.load()) end_reading_within(half_request_grace());
  set_read_deadline(shared_.options.header_timeout, started_);
}

void HttpSession::dispatch() {
  state_ = State::kAnswering;
  read_deadline_.reset();
  body_deadline_.reset();
  if (inbox_.empty()) io_.give_back(inbox_);
  request_->id = request_id(*parser_);
  keep_alive_ = parser_->keep_alive();
  http_1_0_ = parser_->http_1_0();
  request_->body = parser_->take_body();
  io_.keep_parser(std::move(parser_));
  const auto exchange = make_session_exchange(weak_io_, weak_from_this(), serial_, request_,
                                              shared_.options.max_stream_bytes);
  watch_client();
  try {
    route_->handler(exchange);
  } catch (const std::exception& failure) {  // bad_alloc; nothing else throws here
    ApiError error;
    error.code = "internal_error";
    error.message = failure.what();
    exchange->respond(to_response(error));
  }
}

// ---- writing ------------------------------------------------------------------------------------

void HttpSession::append_head(const Response& response, std::optional<std::size_t> content_length) {
  status_ = response.status;
  keep_alive_ = keep_alive_ && !shared_.draining.load();
  io_.lend(outbox_);
  const auto field = [this](std::string_view name, std::string_view value) {
    outbox_.append(name).append(": ").append(value).append("\r\n");
  };
  outbox_.reserve(outbox_.size() + kHeadBytes + response.body.size());
  outbox_.append("HTTP/1.1 ").append(std::to_string(response.status)).append(" ");
  outbox_.append(reason_phrase(response.status)).append("\r\n");
  field("Date", http_date());
  field("Content-Type", response.content_type);
  if (content_length.has_value()) {
    field("Content-Length", std::to_string(*content_length));
  } else if (!http_1_0_) {
    field("Transfer-Encoding", "chunked");
  }
  field("x-request-id", request_->id);
  for (const auto& [name, value] : response.headers) field(name, value);
  if (!keep_alive_) {
    field("Connection", "close");
  } else if (http_1_0_) {
    field("Connection", "keep-alive");
  }
  outbox_ += "\r\n";
}

void HttpSession::respond(std::uint64_t serial, Response response) {
  if (serial != serial_ || state_ != State::kAnswering || status_ != 0) return;
  append_head(response, response.body.size());
  if (request_->method != "HEAD") outbox_ += response.body;
  if (response.refusal.has_value()) {
    io_.counters.refused(*response.refusal);
    log_refusal(*response.refusal);
  }
  answer_complete_ = true;
  flush();
}

void HttpSession::begin_stream(std::uint64_t serial, const Response& head) {
  if (serial != serial_ || state_ != State::kAnswering || status_ != 0) return;
  if (http_1_0_) keep_alive_ = false;  // HTTP/1.0: the end of the connection ends the body
  append_head(head, std::nullopt);
  streaming_ = true;
  flush();
}

void HttpSession::write(std::uint64_t serial, std::string_view piece) {
  if (serial != serial_ || state_ != State::kAnswering || !streaming_ || piece.empty()) return;
  if (http_1_0_) {
    outbox_ += piece;
  } else {
    std::array<char, 20> size{};
    const int digits = std::snprintf(size.data(), size.size(), "%zx\r\n", piece.size());
    outbox_.append(size.data(), static_cast<std::size_t>(digits)).append(piece).append("\r\n");
  }
  flush();
  request_->unsent_bytes.store(outbox_.size() - sent_, std::memory_order_relaxed);
  if (state_ != State::kClosed && outbox_.size() - sent_ > shared_.options.max_stream_bytes) {
    io_.counters.slow_reader_cut();
    abort();
  }
}

void HttpSession::end_stream(std::uint64_t serial, bool complete) {
  if (serial != serial_ || state_ != State::kAnswering || !streaming_ || answer_complete_) return;
  if (!complete) keep_alive_ = false;
  // Also after a failure: the error event is the whole story, and a body that breaks off would
  // hide it behind a transport error.
  if (!http_1_0_) outbox_ += "0\r\n\r\n";
  answer_complete_ = true;
  flush();
}

void HttpSession::set_abort_callback(std::uint64_t serial, std::function<void()> callback) {
  if (serial == serial_ && state_ == State::kAnswering) abort_callback_ = std::move(callback);
}

void HttpSession::flush() {
  if (state_ == State::kClosed || waiting_writable_) return;
  while (sent_ < outbox_.size()) {
    const auto [outcome, count] = socket_.send(std::string_view(outbox_).substr(sent_));
    if (outcome == ClientSocket::Outcome::kWouldBlock) {
      if (sent_ >= kCompactBytes) {
        outbox_.erase(0, sent_);
        sent_ = 0;
      }
      // From the first refusal of the socket on; taking a byte starts it anew.
      if (!write_deadline_.has_value()) {
        write_deadline_ = std::chrono::steady_clock::now() + shared_.options.write_timeout;
        arm_timer();
      }
      waiting_writable_ = true;
      return;
    }
    if (outcome == ClientSocket::Outcome::kEnded) return abort();
    sent_ += count;
    request_->unsent_bytes.store(outbox_.size() - sent_, std::memory_order_relaxed);
    write_deadline_.reset();
  }
  outbox_.clear();
  sent_ = 0;
  if (state_ == State::kAnswering && answer_complete_) finish_answer();
}

void HttpSession::finish_answer() {
  const SteadyTime now = std::chrono::steady_clock::now();
  count_request(status_, now);
  // The answer is complete: whoever still has the request has no use for what it holds.
  if (request_->reservation) request_->reservation->release();
  abort_callback_ = nullptr;
  if (client_left_) return close();
  if (!keep_alive_) return linger();
  parser_.reset();
  read_until_.reset();
  ++serial_;
  request_.reset();
  route_ = nullptr;
  allow_.clear();
  status_ = 0;
  streaming_ = answer_complete_ = keep_alive_ = false;
  io_.give_back(outbox_);
  state_ = State::kReading;
  // The answer promised to keep the connection: it began before the drain did.
  const bool draining = shared_.draining.load() && inbox_.empty();
  if (draining && !shared_.handing_over.load()) return linger();
  set_read_deadline(draining ? shared_.options.hand_over_grace : shared_.options.idle_timeout, now);
  if (inbox_.empty()) return wait_readable();
  // Not called from here: a client that pipelines a thousand requests would nest a thousand frames.
  asio::post(io_.context, [self = shared_from_this()] { self->advance(); });
}

void HttpSession::count_request(unsigned status, SteadyTime now) {
  if (!std::exchange(counted_, false)) return;
  io_.request_finished(path_index_, status, now - started_);
}

// Closing with unread bytes in the socket makes the kernel send a reset, which may overtake the
// answer: say that nothing more comes, and read until the client closes. One that sends a large
// body and looks for the answer only then is given time for it, as long as it sends.
void HttpSession::linger() {
  state_ = State::kLingering;
  request_.reset();
  inbox_.clear();
  if (!socket_.end_sending()) return close();
  read_until_ = std::chrono::steady_clock::now() +
                (shared_.draining.load() ? kLingerTimeout : kLongestLinger);
  set_read_deadline(kLingerTimeout);
  wait_readable();
}

void HttpSession::abort() {
  if (state_ == State::kClosed) return;
  const bool cut_short = state_ == State::kAnswering && !(answer_complete_ && outbox_.empty());
  const auto callback = std::exchange(abort_callback_, nullptr);
  if (cut_short) {
    // The rest will not be sent: a reset frees the socket's buffer at once.
    socket_.reset_on_close();
  }
  close();
  if (callback) callback();
}

void HttpSession::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  count_request(499, std::chrono::steady_clock::now());
  if (request_) request_->reservation.reset();  // an engine that has the request has its own
  ++serial_;
  abort_callback_ = nullptr;
  timer_.cancel();
  io_.poller.forget(socket_.descriptor());
  socket_.close();
  // The caller is one of our own methods: stay until the event loop's next round.
  asio::post(io_.context, [self = shared_from_this()] {});
  io_.sessions.erase(shared_from_this());
  io_.counters.connection_closed();
  shared_.connections.fetch_sub(1);
  shared_.notify_drain();
}

// ---- deadlines ----------------------------------------------------------------------------------

void HttpSession::set_read_deadline(std::chrono::milliseconds from_now, SteadyTime now) {
  read_deadline_ = now + from_now;
  if (read_until_.has_value()) read_deadline_ = std::min(*read_deadline_, *read_until_);
  if (body_deadline_.has_value()) read_deadline_ = std::min(*read_deadline_, *body_deadline_);
  arm_timer();
}

/// From now on no piece that comes in gives the client more time than that.
void HttpSession::end_reading_within(std::chrono::milliseconds from_now) {
  read_until_ = std::chrono::steady_clock::now() + from_now;
  set_read_deadline(from_now);
}

std::chrono::milliseconds HttpSession::half_request_grace() const {
  return shared_.handing_over.load() ? shared_.options.hand_over_grace : kHalfRequestGrace;
}

// Deadlines mostly move away; the timer is then left as it is, and looks again when it fires.
void HttpSession::arm_timer() {
  if (state_ == State::kClosed) return;
  std::optional<SteadyTime> next = read_deadline_;
  if (write_deadline_.has_value() && (!next.has_value() || *write_deadline_ < *next)) {
    next = write_deadline_;
  }
  if (!next.has_value() || (timer_armed_for_.has_value() && *timer_armed_for_ <= *next)) return;
  timer_armed_for_ = next;
  timer_.expires_at(*next);
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error) self->on_timer();
  });
}

void HttpSession::on_timer() {
  timer_armed_for_.reset();
  if (state_ == State::kClosed) return;
  const SteadyTime now = std::chrono::steady_clock::now();
  if (write_deadline_.has_value() && now >= *write_deadline_) {
    io_.counters.slow_reader_cut();
    return abort();
  }
  if (read_deadline_.has_value() && now >= *read_deadline_) {
    if (state_ != State::kReading) return close();
    // Half a close at first, while a request may be under way: a whole one would answer it with a
    // reset.
    if (!parser_) return shared_.handing_over.load() ? linger() : close();
    return refuse(too_late(now));
  }
  arm_timer();
}

}  // namespace weir::serve
