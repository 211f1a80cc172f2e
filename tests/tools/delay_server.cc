// SPDX-License-Identifier: Apache-2.0
//
// weir-delay-server: an HTTP/1.1 backend that waits a set time before its first response byte and
// knows, by its own clock, how long it really waited. Tests compare the kernel's measurements with
// it; benchmarks use it as a backend with think time.
//
// One thread, one epoll loop: any number of requests wait at once, in a heap of due times.
//
//   any request           200, `x-backend: NAME`, a body that starts with NAME, after the delay;
//   with
//                         --pieces the head and the body come in that many parts, one each
//                         --piece-us, as a generated text does
//   PUT /delay?us=N       changes the delay for requests read from now on
//   GET /stats            {"name","requests","connections","delay_us":{"p50","p99","count"}}
//   DELETE /stats         forgets requests and delays counted so far
//
// Control requests are answered at once and not counted. Memory is bounded by connections x 1 MiB.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/result.h"
#include "tests/tools/http_head.h"
#include "tests/tools/latency_histogram.h"
#include "tests/tools/socket.h"

namespace weir::tools {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

constexpr std::size_t kMaxUnreadBytes = 1024UL * 1024;
constexpr std::uint64_t kListenerId = 0;
constexpr std::uint64_t kSignalId = 1;
constexpr std::uint64_t kFirstConnectionId = 2;

struct Options {
  Endpoint listen;
  microseconds delay{0};
  /// Unset: just the name and a newline.
  std::optional<std::size_t> body_bytes;
  /// Writes into which a response is divided, and the time between two of them.
  std::size_t pieces = 1;
  microseconds piece_gap{0};
  std::string name = "delay";
};

struct Connection {
  UniqueFd fd;
  std::string unread;                 ///< bytes read and not yet taken by a request
  std::size_t body_left = 0;          ///< bytes of the current request's body still to come
  bool reading_body = false;          ///< the head was taken, the body not yet
  bool waiting = false;               ///< a request is complete, its answer not yet written
  bool close_after_response = false;  ///< the client asked for it
  bool closing = false;               ///< the last answer was written, perhaps not yet taken
  std::optional<std::string> control_answer;  ///< set when the current request is a control one
  TimePoint request_read;                     ///< when the last byte of that request was read
  std::size_t pieces_sent = 0;                ///< of the current response
  std::string unsent;  ///< the part of a response that the socket did not take
};

struct Due {
  TimePoint at;
  std::uint64_t connection;
  bool operator>(const Due& other) const { return at > other.at; }
};

std::string response(std::string_view status, std::string_view name, std::string_view type,
                     std::string_view body) {
  std::string text = "HTTP/1.1 ";
  text.append(status).append("\r\nx-backend: ").append(name);
  text.append("\r\ncontent-type: ").append(type);
  text.append("\r\ncontent-length: ").append(std::to_string(body.size())).append("\r\n\r\n");
  return text.append(body);
}

class DelayServer {
 public:
  explicit DelayServer(Options options) : options_(std::move(options)) {
    std::string body = options_.name + "\n";
    if (options_.body_bytes) body.resize(*options_.body_bytes, '.');
    response_ = response("200 OK", options_.name, "text/plain", body);
  }

  /// Listens, prints the address, and serves until SIGTERM or SIGINT.
  Status run();

 private:
  Status open();
  Status watch(int fd, std::uint64_t id, std::uint32_t events) const;
  Status accept_all();
  void on_event(std::uint64_t id, std::uint32_t events);
  void answer_due();
  /// False: the connection is over.
  bool read_all(Connection& connection, bool to_end);
  bool take_requests(std::uint64_t id, Connection& connection);
  bool finish_request(std::uint64_t id, Connection& connection);
  /// Sends the response, or the next piece of it.
  bool answer(std::uint64_t id, Connection& connection);
  bool send(Connection& connection, std::string_view bytes) const;
  /// The answer when the head is a control request.
  std::optional<std::string> control(const HttpHead& head);
  [[nodiscard]] std::string stats() const;

  Options options_;
  std::string response_;
  SteadyClock clock_;
  UniqueFd epoll_;
  UniqueFd listener_;
  UniqueFd signals_;
  std::uint64_t next_id_ = kFirstConnectionId;
  std::unordered_map<std::uint64_t, Connection> connections_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  std::uint64_t requests_ = 0;
  std::uint64_t accepted_ = 0;
  LatencyHistogram delays_;
};

Status DelayServer::watch(int fd, std::uint64_t id, std::uint32_t events) const {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return os_error(errno, "epoll_ctl");
}

Status DelayServer::open() {
  epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.open()) return os_error(errno, "epoll_create1");

  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  sigprocmask(SIG_BLOCK, &stop, nullptr);
  signals_ = UniqueFd(::signalfd(-1, &stop, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!signals_.open()) return os_error(errno, "signalfd");
  if (auto status = watch(signals_.get(), kSignalId, EPOLLIN); !status) return status;

  auto listener = listen_on(options_.listen);
  if (!listener) return std::move(listener).error();
  listener_ = std::move(*listener);
  if (auto status = watch(listener_.get(), kListenerId, EPOLLIN); !status) return status;

  const auto at = local_endpoint(listener_);
  if (!at) return at.error();
  std::printf("listening %s\n", at->to_string().c_str());
  std::fflush(stdout);
  return {};
}

Status DelayServer::run() {
  // The default slack of 50 us would be most of the error of a short delay.
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  if (auto status = open(); !status) return status;
  std::array<epoll_event, 256> events{};
  for (;;) {
    timespec wait{};
    if (!due_.empty()) {
      const nanoseconds left = std::max<nanoseconds>(due_.top().at - clock_.now(), nanoseconds(0));
      wait.tv_sec = left / std::chrono::seconds(1);
      wait.tv_nsec = (left % std::chrono::seconds(1)).count();
    }
    const int ready = ::epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                     due_.empty() ? nullptr : &wait, nullptr);
    if (ready < 0 && errno != EINTR) return os_error(errno, "epoll_pwait2");
    answer_due();
    for (int i = 0; i < ready; ++i) {
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      if (event.data.u64 == kSignalId) return {};
      if (event.data.u64 != kListenerId) {
        on_event(event.data.u64, event.events);
      } else if (auto status = accept_all(); !status) {
        return status;
      }
    }
  }
}

Status DelayServer::accept_all() {
  for (;;) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.open()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN) return {};
      return os_error(errno, "accept4");
    }
    ++accepted_;
    set_no_delay(fd.get());
    const std::uint64_t id = next_id_++;
    if (auto status = watch(fd.get(), id, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET); !status) {
      return status;
    }
    connections_[id].fd = std::move(fd);
  }
}

void DelayServer::on_event(std::uint64_t id, std::uint32_t events) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;  // closed earlier in this batch of events
  Connection& connection = found->second;
  bool alive = (events & (EPOLLERR | EPOLLHUP)) == 0;
  if (alive && !connection.unsent.empty()) {
    const std::string rest = std::exchange(connection.unsent, {});
    alive = send(connection, rest);
  }
  alive = alive && read_all(connection, (events & EPOLLRDHUP) != 0);
  if (!alive || !take_requests(id, connection)) connections_.erase(found);
}

bool DelayServer::read_all(Connection& connection, bool to_end) {
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t got = ::recv(connection.fd.get(), chunk.data(), chunk.size(), 0);
    if (got > 0) {
      const auto bytes = static_cast<std::size_t>(got);
      // A body is only counted, so that any length fits.
      const std::size_t body = connection.reading_body ? std::min(connection.body_left, bytes) : 0;
      connection.body_left -= body;
      connection.unread.append(chunk.data() + body, bytes - body);
      if (connection.unread.size() > kMaxUnreadBytes) return false;
      // A short read emptied the socket, and what comes later is another edge; but the edge of a
      // FIN that came with these bytes is this one.
      if (bytes < chunk.size() && !to_end) return true;
    } else if (got < 0 && errno == EAGAIN) {
      return true;
    } else if (got == 0 || errno != EINTR) {
      return false;
    }
  }
}

bool DelayServer::take_requests(std::uint64_t id, Connection& connection) {
  while (!connection.waiting && !connection.closing) {
    if (!connection.reading_body) {
      const auto parsed = parse_http_head(connection.unread);
      if (!parsed || (*parsed && (*parsed)->chunked)) return false;
      if (!*parsed) return true;
      const HttpHead& head = **parsed;
      connection.close_after_response = head.connection_close;
      connection.body_left = head.content_length;
      connection.reading_body = true;
      connection.control_answer = control(head);
      connection.unread.erase(0, head.head_bytes);
    }
    const std::size_t body = std::min(connection.body_left, connection.unread.size());
    connection.unread.erase(0, body);
    connection.body_left -= body;
    if (connection.body_left > 0) return true;
    connection.reading_body = false;
    if (!finish_request(id, connection)) return false;
  }
  return !connection.closing || !connection.unsent.empty();
}

bool DelayServer::finish_request(std::uint64_t id, Connection& connection) {
  if (connection.control_answer) {
    connection.closing = connection.close_after_response;
    return send(connection, *std::exchange(connection.control_answer, std::nullopt));
  }
  connection.waiting = true;
  connection.request_read = clock_.now();
  if (options_.delay.count() == 0) return answer(id, connection);
  due_.push({connection.request_read + options_.delay, id});
  return true;
}

void DelayServer::answer_due() {
  while (!due_.empty() && due_.top().at <= clock_.now()) {
    const std::uint64_t id = due_.top().connection;
    due_.pop();
    const auto found = connections_.find(id);
    if (found == connections_.end()) continue;  // the client left
    if (!answer(id, found->second) || !take_requests(id, found->second)) connections_.erase(found);
  }
}

bool DelayServer::answer(std::uint64_t id, Connection& connection) {
  const TimePoint now = clock_.now();
  if (connection.pieces_sent == 0) {
    ++requests_;
    delays_.add(now - connection.request_read);
  }
  const std::size_t piece = connection.pieces_sent++;
  const std::size_t begin = piece * response_.size() / options_.pieces;
  const std::size_t end = (piece + 1) * response_.size() / options_.pieces;
  if (connection.pieces_sent < options_.pieces) {
    due_.push({now + options_.piece_gap, id});
  } else {
    connection.pieces_sent = 0;
    connection.waiting = false;
    connection.closing = connection.close_after_response;
  }
  return send(connection, std::string_view(response_).substr(begin, end - begin));
}

bool DelayServer::send(Connection& connection, std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(connection.fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      connection.unsent.append(bytes);
      return true;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

std::optional<std::string> DelayServer::control(const HttpHead& head) {
  const auto [method, target, version] = head.start_line;
  constexpr std::string_view kDelay = "/delay?us=";
  if (method == "PUT" && target.starts_with(kDelay)) {
    const std::string_view value = target.substr(kDelay.size());
    std::uint32_t us = 0;
    const auto [end, status] = std::from_chars(value.data(), value.data() + value.size(), us);
    if (status != std::errc{} || end != value.data() + value.size()) {
      return response("400 Bad Request", options_.name, "text/plain", "us is not 0..4294967295\n");
    }
    options_.delay = microseconds(us);
    return response("200 OK", options_.name, "application/json", stats());
  }
  if (target != "/stats" || (method != "GET" && method != "DELETE")) return std::nullopt;
  const std::string body = stats();
  if (method == "DELETE") {
    requests_ = accepted_ = 0;
    delays_ = LatencyHistogram();
  }
  return response("200 OK", options_.name, "application/json", body);
}

std::string DelayServer::stats() const {
  const auto us = [this](double q) -> std::string {
    const auto delay = delays_.quantile(q);
    if (!delay) return "null";
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.3f", static_cast<double>(delay->count()) / 1e3);
    return text.data();
  };
  return "{\"name\":\"" + options_.name + "\",\"requests\":" + std::to_string(requests_) +
         ",\"connections\":" + std::to_string(accepted_) + ",\"delay_us\":{\"p50\":" + us(0.50) +
         ",\"p99\":" + us(0.99) + ",\"count\":" + std::to_string(delays_.count()) + "}}\n";
}

int run_main(int argc, char** argv) {
  CLI::App app("An HTTP/1.1 backend that answers after a set delay.", "weir-delay-server");
  Options options;
  std::string listen = "127.0.0.1:0";
  std::uint32_t delay_us = 0;
  app.add_option("--listen", listen, "ADDRESS:PORT; port 0: chosen by the kernel")
      ->capture_default_str();
  app.add_option("--delay-us", delay_us, "wait before the first response byte, us")
      ->capture_default_str();
  app.add_option("--body-bytes", options.body_bytes, "length of the response body (default: NAME)");
  std::uint32_t piece_us = 0;
  app.add_option("--pieces", options.pieces, "parts in which a response is sent")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--piece-us", piece_us, "time between two parts, us")->capture_default_str();
  app.add_option("--name", options.name, "sent as x-backend and at the start of the body")
      ->capture_default_str()
      ->check([](const std::string& name) {
        const bool plain = name.find_first_of("\"\\\r\n") == std::string::npos;
        return plain ? "" : "a name has no quotes, backslashes or line breaks";
      });
  CLI11_PARSE(app, argc, argv);

  const auto endpoint = Endpoint::parse(listen, /*allow_port_zero=*/true);
  if (!endpoint) {
    std::fprintf(stderr, "weir-delay-server: --listen: %s\n", endpoint.error().message.c_str());
    return 2;
  }
  options.listen = *endpoint;
  options.delay = microseconds(delay_us);
  options.piece_gap = microseconds(piece_us);
  const Status status = DelayServer(std::move(options)).run();
  if (status) return 0;
  std::fprintf(stderr, "weir-delay-server: %s\n", status.error().message.c_str());
  return 1;
}

}  // namespace
}  // namespace weir::tools

int main(int argc, char** argv) { return weir::tools::run_main(argc, argv); }
