// SPDX-License-Identifier: Apache-2.0
//
// One connection to the target, kept alive between requests: at most one request at a time, nothing
// is sent twice.
//
// Thread-safety: belongs to the thread that runs its io_context.
// Ownership: the owner keeps connection and observer alive as long as the io_context runs.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "agent/base/clock.h"
#include "agent/ctl/replay/arrival_plan.h"
#include "agent/ctl/replay/request_text.h"
#include "agent/ctl/replay/response_reader.h"

namespace weir::replay {

/// A request on its way, and when what happened.
struct Exchange {
  Arrival arrival;
  TimePoint due;
  std::optional<TimePoint> sent;        ///< its last byte was handed to the kernel
  std::optional<TimePoint> first_byte;  ///< of the response
  std::optional<TimePoint> first_text;  ///< event with text, of a stream
  std::optional<TimePoint> last_text;
  std::uint64_t texts = 0;
};

class ConnectionObserver {
 public:
  virtual ~ConnectionObserver() = default;
  virtual void on_opened() = 0;
  /// Between two events with text; 0 for those that one read brought.
  virtual void on_gap(const Exchange& exchange, Duration gap) = 0;
  /// The request is over, and connection number `index` free for another.
  virtual void on_end(std::size_t index, const Exchange& exchange, const Answer& answer,
                      TimePoint now) = 0;
};

/// What all connections of a client have in common.
struct ConnectionShared {
  boost::asio::io_context& io;
  boost::asio::ip::tcp::endpoint target;
  const RequestText& requests;
  const Clock& clock;
  ConnectionObserver& observer;
  std::vector<char> chunk = std::vector<char>(64 * 1024);  ///< what one read may bring
};

class Connection {
 public:
  Connection(ConnectionShared& shared, std::size_t index);

  /// Precondition: not busy. Never calls the observer before it returns.
  void start(const Arrival& arrival, TimePoint due);
  [[nodiscard]] bool busy() const { return exchange_.has_value(); }
  /// Of the request it carries.
  [[nodiscard]] std::optional<std::uint64_t> serial() const;
  /// Ends the request it carries, and the connection.
  void abandon(const char* reason);

 private:
  void connect();
  void send();
  void wait_readable();
  void on_readable();
  /// False: closed.
  bool take(std::string_view bytes, TimePoint now);
  void take_texts(TimePoint now);
  void on_peer_closed(const boost::system::error_code& error);
  void close();
  void finish(const Answer& answer, TimePoint now);
  /// finish(), but later: for what goes wrong within start().
  void post_failure(const char* reason);

  ConnectionShared& shared_;
  const std::size_t index_;
  boost::asio::ip::tcp::socket socket_;
  std::uint64_t life_ = 0;  ///< completions of an earlier socket are told by it
  bool open_ = false;
  std::string request_;
  std::size_t unsent_ = 0;  ///< bytes at the end of request_
  ResponseReader reader_;
  std::optional<Exchange> exchange_;
};

}  // namespace weir::replay
