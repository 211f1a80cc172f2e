// SPDX-License-Identifier: Apache-2.0
//
// One client connection: reads requests one after another, hands each to its handler, writes the
// answers, and watches the socket meanwhile so that a client's leaving is noticed at once.
//
// Thread-safety: an HttpSession belongs to its I/O thread.
// Ownership: IoThread::sessions owns it from start() or turn_away() until it closes.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>

#include "agent/admit/admission.h"
#include "agent/base/clock.h"
#include "agent/base/listener_group.h"
#include "agent/serve/api_error.h"
#include "agent/serve/client_socket.h"
#include "agent/serve/http_server.h"
#include "agent/serve/mailbox.h"
#include "agent/serve/refusal_log.h"
#include "agent/serve/request_parser.h"
#include "agent/serve/router.h"
#include "agent/serve/session_exchange.h"
#include "agent/serve/socket_poller.h"
#include "agent/telemetry/http_counters.h"

namespace weir::serve {

class HttpSession;

/// What all sessions of a server share.
struct ServerShared {
  ServerShared(const ServeOptions& given, model::Executor& executes, admit::Admission& admits,
               const Clock& tells_time)
      : options(given), executor(executes), admission(admits), clock(tells_time) {}

  const ServeOptions options;
  model::Executor& executor;
  admit::Admission& admission;
  const Clock& clock;  ///< of deadlines; the time-outs of a connection go by real time
  Router router;       ///< filled before the first session
  std::atomic<bool> draining{false};
  /// Set before `draining`: another process serves this port from now on.
  std::atomic<bool> handing_over{false};
  std::atomic<std::uint32_t> connections{0};

  /// Wakes wait_drained(); called when a connection or a listener ended.
  void notify_drain();
  std::mutex drain_mutex;
  std::condition_variable drained;
};

/// What the sessions of one I/O thread share. Only that thread touches it, but for `context` and
/// `mailbox`, and for reading `counters` and `seat`.
struct IoThread {
  explicit IoThread(std::size_t routes) : counters(routes) {}

  void request_started() {
    counters.request_started();
    tell_waiting();
  }
  void request_finished(std::size_t route, unsigned status, Duration duration) {
    counters.request_finished(route, status, duration);
    tell_waiting();
  }
  void tell_waiting() {
    if (ListenerSeat* const taken = seat.load()) taken->set_waiting(counters.in_flight());
  }

  /// Sessions own no buffer between requests: the next one that needs one gets what another left.
  void lend(std::string& buffer) {
    if (buffer.empty() && buffer.capacity() < spare_buffer.capacity()) buffer.swap(spare_buffer);
  }
  /// Empties it.
  void give_back(std::string& buffer) {
    constexpr std::size_t kLargestSpare = 64 * 1024;
    buffer.clear();
    if (buffer.capacity() > spare_buffer.capacity() && buffer.capacity() <= kLargestSpare) {
      buffer.swap(spare_buffer);
    }
    std::string().swap(buffer);
  }

  /// Like lend() and give_back(): few requests are being read at a time.
  [[nodiscard]] std::unique_ptr<RequestParser> take_parser(std::uint64_t max_body_bytes) {
    if (!spare_parser) return std::make_unique<RequestParser>(max_body_bytes);
    spare_parser->restart();
    return std::move(spare_parser);
  }
  void keep_parser(std::unique_ptr<RequestParser> parser) { spare_parser = std::move(parser); }

  boost::asio::io_context context{1};
  Mailbox mailbox{context};
  SocketPoller poller{context};
  telemetry::HttpCounters counters;
  RefusalLog refusal_log;
  std::unique_ptr<ListenerSeat> own_seat;
  std::atomic<ListenerSeat*> seat{nullptr};                   ///< own_seat, once it is there
  std::unordered_set<std::shared_ptr<HttpSession>> sessions;  ///< the open ones
  std::array<char, 64 * 1024> scratch{};                      ///< every read lands here first
  std::string spare_buffer;                                   ///< of lend() and give_back()
  std::unique_ptr<RequestParser> spare_parser;                ///< null: all are in use
};

class HttpSession final : public SocketPoller::Watcher,
                          public std::enable_shared_from_this<HttpSession> {
 public:
  /// `shared` and `io` outlive the session, which counts itself in shared.connections.
  HttpSession(ClientSocket socket, ServerShared& shared, const std::shared_ptr<IoThread>& io);

  void start();
  /// Answers without reading a request, then closes: for connections beyond the limit.
  void turn_away(const ApiError& error);
  /// Closes now if no request is in progress; otherwise after its answer. When the server hands
  /// over, a connection without a request gets time for one more.
  void drain();
  /// Closes now. A request in progress is aborted.
  void abort();

  // The answers, from the exchange numbered `serial`; ignored when that is no longer the current
  // one.
  void respond(std::uint64_t serial, Response response);
  void begin_stream(std::uint64_t serial, const Response& head);
  void write(std::uint64_t serial, std::string_view piece);
  void end_stream(std::uint64_t serial, bool complete);
  void set_abort_callback(std::uint64_t serial, std::function<void()> callback);

 private:
  enum class State {
    kReading,    ///< between requests, or in the middle of one
    kAnswering,  ///< a handler has the request, or its answer is being written
    kLingering,  ///< all is said; reading until the client closes, so that it gets what was said
    kClosed
  };

  using SteadyTime = std::chrono::steady_clock::time_point;

  // Reading.
  void open();
  void on_socket(std::uint32_t events) override;
  void wait_readable();
  void on_readable();
  void watch_client();
  void client_left();
  void advance();
  void begin_request();
  void dispatch();

  // What the header decides: session_head.cc.
  [[nodiscard]] std::optional<ApiError> check_header();
  [[nodiscard]] std::optional<ApiError> check_admin();
  [[nodiscard]] std::optional<ApiError> admit();
  [[nodiscard]] std::optional<ApiError> check_expect();
  void bound_body();
  [[nodiscard]] ApiError too_late(SteadyTime now);
  void drop_body();
  void refuse(const ApiError& error);
  void log_refusal(model::RefusalReason reason);

  // Writing.
  void append_head(const Response& response, std::optional<std::size_t> content_length);
  void flush();
  void finish_answer();
  void count_request(unsigned status, SteadyTime now);
  void linger();
  void close();

  // Deadlines: one timer, armed for the earlier of the two.
  void set_read_deadline(std::chrono::milliseconds from_now,
                         SteadyTime now = std::chrono::steady_clock::now());
  void end_reading_within(std::chrono::milliseconds from_now);
  [[nodiscard]] std::chrono::milliseconds half_request_grace() const;
  void arm_timer();
  void on_timer();

  ClientSocket socket_;
  boost::asio::steady_timer timer_;
  ServerShared& shared_;
  IoThread& io_;
  const std::weak_ptr<IoThread> weak_io_;

  State state_ = State::kReading;
  bool waiting_readable_ = false;
  bool waiting_writable_ = false;
  bool unread_ = false;            ///< the socket may have something to read
  bool client_ended_ = false;      ///< its end, or a failure, is or was to be read there
  bool client_broke_off_ = false;  ///< a failure
  std::optional<SteadyTime> read_deadline_;
  std::optional<SteadyTime> read_until_;     ///< no read deadline is later
  std::optional<SteadyTime> body_deadline_;  ///< nor later than this: that of the request
  std::optional<SteadyTime> write_deadline_;
  std::optional<SteadyTime> timer_armed_for_;

  std::string inbox_;  ///< read and not yet parsed
  std::string outbox_;
  std::size_t sent_ = 0;  ///< of outbox_

  // The current request.
  std::unique_ptr<RequestParser> parser_;  ///< from its first byte to its dispatch
  std::uint64_t serial_ = 0;
  bool counted_ = false;  ///< request_started() was called for it
  SteadyTime started_;
  std::shared_ptr<SharedRequest> request_;  ///< null between requests
  const Route* route_ = nullptr;
  std::size_t path_index_ = 0;
  std::function<void()> abort_callback_;
  unsigned status_ = 0;
  bool streaming_ = false;
  bool answer_complete_ = false;
  bool keep_alive_ = false;
  bool http_1_0_ = false;
  bool client_left_ = false;
  std::string allow_;  ///< for the Allow header of 405
};

}  // namespace weir::serve
