// SPDX-License-Identifier: Apache-2.0
//
// weir-ttfb-client: an HTTP/1.1 client that keeps its connections alive and writes down, by its own
// clock, the time to first byte of every single request: what the kernel's records are compared
// with, request by request.
//
// Time to first byte is from the return of the send() that ended the request to the return of the
// recv() that brought the first byte of the response. Each connection has one request outstanding,
// sent as soon as the answer before was read in full. One thread, one epoll loop.
//
// Prints one JSON object per request, in the order of the first bytes,
//   {"cookie":N,"seq":N,"ttfb_us":N.NNN}
// where cookie is SO_COOKIE of the socket and seq counts the requests of that connection from 1;
// then {"requests":N,"errors":N}. Exit status: 0 when every request was answered, 1
// otherwise, 2 for wrong arguments.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "tests/tools/http_head.h"
#include "tests/tools/socket.h"

namespace weir::bench {
namespace {

using std::chrono::nanoseconds;

/// Longer than any retransmission that a lossy link should need in a row.
constexpr std::chrono::seconds kIdleLimit{30};

struct Options {
  Endpoint target;
  std::string target_text;
  std::string path = "/";
  std::string cgroup;  ///< cgroup v2 directory to join before any socket is made; empty: stay
  std::size_t connections = 8;
  std::size_t requests = 1000;
};

struct Record {
  std::uint64_t cookie;
  std::uint32_t sequence;
  nanoseconds ttfb;
};

struct Connection {
  tools::UniqueFd fd;
  std::uint64_t cookie = 0;
  std::uint32_t sequence = 0;  ///< of the request it carries
  bool connected = false;
  bool waiting = false;  ///< no response byte yet
  TimePoint sent;
  std::string received;
};

class TtfbClient {
 public:
  explicit TtfbClient(Options options) : options_(std::move(options)) {
    request_ = "GET " + options_.path + " HTTP/1.1\r\nhost: " + options_.target_text + "\r\n\r\n";
    records_.reserve(options_.requests);
  }

  /// Sends every request and reads its answer. A connection that fails ends the run.
  Status run();

  [[nodiscard]] const std::vector<Record>& records() const { return records_; }
  [[nodiscard]] std::size_t requests_sent() const { return sent_; }
  [[nodiscard]] std::size_t answered() const { return answered_; }

 private:
  Status open(Connection& connection, std::size_t index);
  Status on_event(Connection& connection, std::uint32_t events);
  Status send_next(Connection& connection);
  Status receive(Connection& connection);

  Options options_;
  std::string request_;
  SteadyClock clock_;
  tools::UniqueFd epoll_;
  std::vector<Connection> connections_;
  std::vector<Record> records_;
  std::size_t sent_ = 0;
  std::size_t answered_ = 0;
};

Status TtfbClient::run() {
  if (!options_.cgroup.empty()) {
    // Before any socket: a socket belongs to the cgroup in which it was made.
    std::ofstream procs(options_.cgroup + "/cgroup.procs");
    procs << "0" << std::flush;
    if (!procs) return os_error(errno, "joining cgroup " + options_.cgroup);
  }
  epoll_ = tools::UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.open()) return os_error(errno, "epoll_create1");
  connections_.resize(options_.connections);
  for (std::size_t i = 0; i < connections_.size(); ++i) {
    if (auto status = open(connections_[i], i); !status) return status;
  }
  std::array<epoll_event, 64> events{};
  constexpr int kLimitMs = std::chrono::milliseconds(kIdleLimit).count();
  while (answered_ < options_.requests) {
    const int ready =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), kLimitMs);
    if (ready < 0 && errno != EINTR) return os_error(errno, "epoll_wait");
    if (ready == 0) return make_error(Code::kUnavailable, "no answer for 30 s");
    for (int i = 0; i < ready; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      if (auto status = on_event(connections_[event.data.u64], event.events); !status) {
        return status;
      }
    }
  }
  return {};
}

Status TtfbClient::open(Connection& connection, std::size_t index) {
  auto fd = tools::start_connect(options_.target);
  if (!fd) return std::move(fd).error();
  connection.fd = std::move(*fd);
  socklen_t length = sizeof connection.cookie;
  if (::getsockopt(connection.fd.get(), SOL_SOCKET, SO_COOKIE, &connection.cookie, &length) != 0) {
    return os_error(errno, "SO_COOKIE");
  }
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = index;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection.fd.get(), &event) == 0) return {};
  return os_error(errno, "epoll_ctl");
}

Status TtfbClient::on_event(Connection& connection, std::uint32_t events) {
  if (!connection.connected) {
    if (auto status = tools::connect_error(connection.fd); !status) return status;
    if ((events & EPOLLOUT) == 0) return {};
    connection.connected = true;
    return send_next(connection);
  }
  return (events & ~static_cast<std::uint32_t>(EPOLLOUT)) == 0 ? Status{} : receive(connection);
}

Status TtfbClient::send_next(Connection& connection) {
  if (sent_ == options_.requests) return {};
  const ssize_t sent = ::send(connection.fd.get(), request_.data(), request_.size(), MSG_NOSIGNAL);
  connection.sent = clock_.now();
  if (sent != static_cast<ssize_t>(request_.size())) return os_error(errno, "send");
  ++sent_;
  ++connection.sequence;
  connection.waiting = true;
  connection.received.clear();
  return {};
}

Status TtfbClient::receive(Connection& connection) {
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t got = ::recv(connection.fd.get(), chunk.data(), chunk.size(), 0);
    const TimePoint now = clock_.now();
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return {};
    if (got < 0) return os_error(errno, "recv");
    if (got == 0) return make_error(Code::kUnavailable, "the server closed a connection");
    if (std::exchange(connection.waiting, false)) {
      records_.push_back({connection.cookie, connection.sequence, now - connection.sent});
    }
    connection.received.append(chunk.data(), static_cast<std::size_t>(got));
    const auto parsed = tools::parse_http_head(connection.received);
    if (!parsed) return parsed.error();
    if (!*parsed) continue;
    const tools::HttpHead& head = **parsed;
    if (head.chunked) return make_error(Code::kUnsupported, "a chunked response");
    const std::size_t length = head.head_bytes + head.content_length;
    if (connection.received.size() < length) continue;
    if (connection.received.size() > length || !head.start_line[1].starts_with('2')) {
      return make_error(Code::kInternal, "the answer is not one 2xx response");
    }
    ++answered_;
    if (auto status = send_next(connection); !status) return status;
    if (!connection.waiting) return {};
  }
}

int run_main(int argc, char** argv) {
  CLI::App app("Time to first byte of every request, by the client's own clock.",
               "weir-ttfb-client");
  Options options;
  app.add_option("--target", options.target_text, "ADDRESS:PORT")->required();
  app.add_option("--path", options.path, "request target")->capture_default_str();
  app.add_option("--connections", options.connections, "kept alive, one request outstanding each")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--requests", options.requests, "in all")
      ->check(CLI::Range(1, 10000000))
      ->capture_default_str();
  app.add_option("--cgroup", options.cgroup, "cgroup v2 directory to join first");
  CLI11_PARSE(app, argc, argv);

  const auto target = Endpoint::parse(options.target_text);
  if (!target) {
    std::fprintf(stderr, "weir-ttfb-client: --target: %s\n", target.error().message.c_str());
    return 2;
  }
  options.target = *target;
  TtfbClient client(std::move(options));
  const Status status = client.run();
  if (!status) std::fprintf(stderr, "weir-ttfb-client: %s\n", status.error().message.c_str());
  for (const Record& record : client.records()) {
    std::printf("{\"cookie\":%lu,\"seq\":%u,\"ttfb_us\":%.3f}\n", record.cookie, record.sequence,
                static_cast<double>(record.ttfb.count()) / 1e3);
  }
  std::printf("{\"requests\":%zu,\"errors\":%zu}\n", client.requests_sent(),
              client.requests_sent() - client.answered());
  return status ? 0 : 1;
}

}  // namespace
}  // namespace weir::bench

int main(int argc, char** argv) { return weir::bench::run_main(argc, argv); }
