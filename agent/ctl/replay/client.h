// SPDX-License-Identifier: Apache-2.0
//
// Sends requests over as many connections as they need, up to a bound, and never makes the caller
// wait: a request for which all connections are busy waits here, its wait is part of its latency,
// and one that finds `max_inflight` requests unanswered is dropped and told of.
//
// Thread-safety: belongs to the thread that runs the io_context. Ownership: the observer outlives
// the client; the client must live as long as the io_context runs.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "agent/ctl/replay/connection.h"
#include "agent/ctl/replay/options.h"

namespace weir::replay {

class ClientObserver {
 public:
  virtual ~ClientObserver() = default;
  virtual void on_gap(const Exchange& exchange, Duration gap) = 0;
  /// Once for each request that send() took.
  virtual void on_end(const Exchange& exchange, const Answer& answer, TimePoint now) = 0;
};

struct ClientReading {
  std::uint64_t connections_opened = 0;
  std::uint64_t connections_peak = 0;  ///< carrying a request at the same time
  std::uint64_t inflight_peak = 0;
  std::uint64_t waited = 0;  ///< requests that found no free connection
};

class Client final : private ConnectionObserver {
 public:
  Client(boost::asio::io_context& io, const boost::asio::ip::tcp::endpoint& target,
         const Options& options, const RequestText& requests, const Clock& clock,
         ClientObserver& observer);
  ~Client() override;

  /// False: dropped, because max_inflight requests are unanswered. The observer is never called
  /// before this returns.
  [[nodiscard]] bool send(const Arrival& arrival, TimePoint due);

  [[nodiscard]] std::size_t inflight() const { return busy_ + waiting_.size(); }
  [[nodiscard]] const ClientReading& reading() const { return reading_; }
  /// Ends everything that is open with the error `reason`; takes no more requests.
  void abandon_all(const char* reason);

 private:
  struct Waiting {
    Arrival arrival;
    TimePoint due;
  };
  struct Deadline {
    TimePoint at;
    std::size_t connection;
    std::uint64_t serial;
  };

  void on_opened() override { ++reading_.connections_opened; }
  void on_gap(const Exchange& exchange, Duration gap) override { observer_.on_gap(exchange, gap); }
  void on_end(std::size_t index, const Exchange& exchange, const Answer& answer,
              TimePoint now) override;

  void start(std::size_t index, const Arrival& arrival, TimePoint due);
  void start_waiting(TimePoint now);
  void watch_deadlines();
  void end_late();
  [[nodiscard]] bool is_over(const Deadline& deadline) const;

  const Duration timeout_;
  const std::size_t max_connections_;
  const std::size_t max_inflight_;
  const Clock& clock_;
  ClientObserver& observer_;
  ConnectionShared shared_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<std::size_t> free_;  // last in, first out: few connections carry a low rate
  std::deque<Waiting> waiting_;
  std::size_t busy_ = 0;
  std::deque<Deadline> deadlines_;  // by time, since all have one timeout
  boost::asio::steady_timer timer_;
  bool timer_set_ = false;
  bool stopped_ = false;
  ClientReading reading_;
};

}  // namespace weir::replay
