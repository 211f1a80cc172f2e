// SPDX-License-Identifier: Apache-2.0
//
// Open-loop HTTP/1.1 load. Requests are due at the times of a Poisson process that is fixed by its
// seed before the first one is sent; each latency counts from the time a request was due. A slow
// server therefore cannot slow the generator down, nor hide its own queue.
//
// One epoll loop. A request that finds no free connection waits in a bounded queue, is counted as
// queued, and its wait is part of its latency; one that finds the queue full is dropped and
// counted. Nothing is retried.
//
// Thread-compatible: one thread at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "tests/tools/latency_histogram.h"
#include "tests/tools/socket.h"

namespace weir::bench {

struct Options {
  Endpoint target;
  std::string target_text;
  std::string path = "/";
  /// cgroup v2 directory to join before any socket is made; empty: stay.
  std::string cgroup;
  double rate = 1000;  ///< mean requests per second
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
    enum class State { kClosed, kConnecting, kIdle, kReading, kAwaitingFin };
    State state = State::kClosed;
    tools::UniqueFd fd;
    std::optional<TimePoint> due;  ///< of the request it carries
    std::string received;
  };

  Status open();
  Status connect_all();
  Status poll(TimePoint until);
  void enqueue_due();
  void dispatch();
  void start(std::size_t index, TimePoint due);
  void start_connection(std::size_t index);
  void send_request(Connection& connection);
  void on_event(std::size_t index, std::uint32_t events);
  void receive(std::size_t index);
  /// Counts the response when it is complete.
  void take_response(std::size_t index);
  /// Stays in the free list, where its next request opens it again.
  static void close_idle(Connection& connection);
  void fail(std::size_t index, std::uint64_t& reason);
  void release(std::size_t index, Connection::State state);

  Options options_;
  std::string request_;
  SteadyClock clock_;
  tools::UniqueFd epoll_;
  std::mt19937_64 random_;
  std::exponential_distribution<double> gap_seconds_;
  TimePoint begin_;
  TimePoint next_due_;
  TimePoint last_answer_;
  std::vector<Connection> connections_;
  std::deque<std::size_t> free_;  ///< first in, first out: every connection carries load
  std::deque<TimePoint> queue_;
  Counts counts_;
  tools::LatencyHistogram latency_;
  tools::LatencyHistogram send_lag_;
  std::chrono::nanoseconds cpu_{0};
};

}  // namespace weir::bench
