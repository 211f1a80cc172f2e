// SPDX-License-Identifier: Apache-2.0
//
// HTTP/1.1 load in one of two shapes.
//
// Open loop: requests are due at the times of a Poisson process that is fixed by its seed before
// the first one is sent; each latency counts from the time a request was due. A slow server
// therefore cannot slow the generator down, nor hide its own queue. A request that finds no free
// connection waits in a bounded queue, is counted as queued, and its wait is part of its latency;
// one that finds the queue full is dropped and counted. Nothing is retried.
//
// Closed loop: every connection always has one request outstanding, so that the path is saturated;
// latencies count from the send and say little, CPU per answer says most.
//
// The generator's own CPU is in every path that it measures and blurs their ratio, so the loop is
// lean: one epoll, one absolute timer armed once per wait, one send and one receive per request, a
// response head parsed only when it differs from the one before, and no allocation per request.
//
// Thread-compatible: one thread at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "tests/bench/ring.h"
#include "tests/tools/latency_histogram.h"
#include "tests/tools/socket.h"

namespace weir::bench {

struct Options {
  Endpoint target;
  std::string target_text;
  std::string path = "/";
  /// cgroup v2 directory to join before any socket is made; empty: stay.
  std::string cgroup;
  double rate = 1000;   ///< mean requests per second; open loop only
  bool closed = false;  ///< closed loop
  double seconds = 5;
  double warmup_seconds = 0.5;
  std::size_t connections = 32;
  std::size_t max_queue = 100000;
  std::uint64_t seed = 1;
  /// False: a connection per request, connect included in its latency, closed first by the server.
  bool keepalive = true;
};

struct Counts {
  std::uint64_t scheduled = 0;
  std::uint64_t answered = 0;
  std::uint64_t queued = 0;      ///< found no free connection when due
  std::uint64_t dropped = 0;     ///< found the queue full
  std::uint64_t connect = 0;     ///< failed connects
  std::uint64_t io = 0;          ///< cut off, or not HTTP
  std::uint64_t status = 0;      ///< not 2xx
  std::uint64_t unanswered = 0;  ///< still open when the drain limit passed
  std::size_t deepest_queue = 0;

  [[nodiscard]] std::uint64_t errors() const {
    return dropped + connect + io + status + unanswered;
  }
};

class LoadGenerator {
 public:
  explicit LoadGenerator(Options options);

  /// Sends the whole schedule and waits up to 5 s for the last answers. Call once. An error when
  /// the load could not start; what goes wrong after that is counted.
  Status run();

  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] const Counts& counts() const { return counts_; }
  /// Due to answered; without the warm-up.
  [[nodiscard]] const tools::LatencyHistogram& latency() const { return latency_; }
  /// Due to handed to the kernel: how late this generator itself is.
  [[nodiscard]] const tools::LatencyHistogram& send_lag() const { return send_lag_; }
  /// From the first request due to the last one answered.
  [[nodiscard]] std::chrono::nanoseconds elapsed() const { return last_answer_ - begin_; }
  /// CPU time of this process from the first request due to the end of run().
  [[nodiscard]] std::chrono::nanoseconds cpu() const { return cpu_; }

 private:
  struct Connection {
    enum class State { kClosed, kConnecting, kIdle, kReadingHead, kReadingBody, kAwaitingFin };
    State state = State::kClosed;
    tools::UniqueFd fd;
    std::optional<TimePoint> due;  ///< of the request it carries
    std::string head;              ///< the part of a response head that came alone
    std::size_t body_left = 0;
    bool close_after_body = false;
    bool accepted = false;  ///< the response's status was 2xx
  };

  Status open();
  Status connect_all();
  /// Waits for events until `until` at the latest and handles them.
  Status poll(TimePoint until);
  Status arm(TimePoint until);
  /// Closed loop: a request for every free connection.
  void enqueue_free(TimePoint now);
  /// Open loop: the requests due by now.
  void enqueue_due(TimePoint now, TimePoint end);
  void dispatch();
  void start(std::size_t index, TimePoint due);
  void start_connection(std::size_t index);
  [[nodiscard]] Status watch(int fd, std::uint64_t id, std::uint32_t events) const;
  /// Whether the request was handed to the kernel; errno says why not.
  bool send_request(Connection& connection);
  void on_event(std::size_t index, std::uint32_t events);
  void receive(std::size_t index, bool to_end);
  void on_end(std::size_t index);
  /// False: the connection is over.
  bool take(std::size_t index, std::string_view bytes);
  bool take_head(Connection& connection, std::string_view& bytes);
  void complete(std::size_t index);
  /// Stays in the free list, where its next request opens it again.
  static void close_idle(Connection& connection);
  void fail(std::size_t index, std::uint64_t& reason);
  void release(std::size_t index, Connection::State state);

  Options options_;
  std::string request_;
  SteadyClock clock_;
  tools::UniqueFd epoll_;
  tools::UniqueFd timer_;
  std::optional<TimePoint> armed_;  ///< when the timer fires; unset once it may have
  std::mt19937_64 random_;
  std::exponential_distribution<double> gap_seconds_;
  TimePoint begin_;
  TimePoint next_due_;
  TimePoint last_answer_;
  std::vector<Connection> connections_;
  Ring<std::size_t> free_;  ///< first in, first out: every connection carries load
  Ring<TimePoint> queue_;
  std::vector<char> chunk_;  ///< what one receive may bring
  std::string known_head_;   ///< the last response head, and what it said
  std::size_t known_body_bytes_ = 0;
  bool known_close_ = false;
  bool known_accepted_ = false;
  Counts counts_;
  tools::LatencyHistogram latency_;
  tools::LatencyHistogram send_lag_;
  std::chrono::nanoseconds cpu_{0};
};

}  // namespace weir::bench
