// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/load_generator.h"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <fstream>
#include <limits>
#include <utility>

#include "tests/tools/http_head.h"

namespace weir::bench {
namespace {

using std::chrono::nanoseconds;

constexpr std::chrono::seconds kDrainLimit{5};
constexpr std::chrono::seconds kConnectLimit{5};
constexpr std::size_t kChunkBytes = 65536;
/// epoll id of the timer; connections count from 0.
constexpr std::uint64_t kTimerId = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint32_t kReceiveEvents = EPOLLIN | EPOLLRDHUP | EPOLLET;

/// CPU time of this process: the same account as /proc/PID/schedstat.
nanoseconds own_cpu() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return std::chrono::seconds(used.tv_sec) + nanoseconds(used.tv_nsec);
}

Duration seconds(double value) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
}

}  // namespace

LoadGenerator::LoadGenerator(Options options)
    : options_(std::move(options)),
      random_(options_.seed),
      gap_seconds_(options_.rate),
      connections_(options_.connections),
      free_(options_.connections),
      queue_(options_.max_queue),
      chunk_(kChunkBytes) {
  request_ = "GET " + options_.path + " HTTP/1.1\r\nhost: " + options_.target_text + "\r\n" +
             (options_.keepalive ? "" : "connection: close\r\n") + "\r\n";
}

Status LoadGenerator::run() {
  if (auto status = open(); !status) return status;
  if (options_.keepalive) {
    if (auto status = connect_all(); !status) return status;
  }
  const nanoseconds cpu_before = own_cpu();
  begin_ = last_answer_ = clock_.now();
  const TimePoint end = begin_ + seconds(options_.seconds);
  next_due_ = options_.closed ? end : begin_;
  const auto busy = [this] { return free_.size() < connections_.size() || !queue_.empty(); };
  for (TimePoint now = begin_; now < end || next_due_ < end || (busy() && now < end + kDrainLimit);
       now = clock_.now()) {
    if (options_.closed && now < end) enqueue_free(now);
    enqueue_due(now, end);
    dispatch();
    const TimePoint limit = now < end ? end : end + kDrainLimit;
    if (auto status = poll(std::min(next_due_, limit)); !status) return status;
  }
  cpu_ = own_cpu() - cpu_before;
  counts_.unanswered = queue_.size();
  for (const Connection& connection : connections_) counts_.unanswered += connection.due ? 1U : 0U;
  return {};
}

Status LoadGenerator::open() {
  if (!options_.cgroup.empty()) {
    // Before any socket: a socket belongs to the cgroup in which it was made.
    std::ofstream procs(options_.cgroup + "/cgroup.procs");
    procs << "0" << std::flush;
    if (!procs) return os_error(errno, "joining cgroup " + options_.cgroup);
  }
  // The default slack of 50 us would send late and be counted as latency.
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  epoll_ = tools::UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.open()) return os_error(errno, "epoll_create1");
  timer_ = tools::UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer_.open()) return os_error(errno, "timerfd_create");
  // Edge-triggered, so that nobody has to read it.
  if (auto status = watch(timer_.get(), kTimerId, EPOLLIN | EPOLLET); !status) return status;
  for (std::size_t i = 0; i < connections_.size(); ++i) free_.push(i);
  return {};
}

Status LoadGenerator::connect_all() {
  free_.clear();
  for (std::size_t i = 0; i < connections_.size(); ++i) start_connection(i);
  const TimePoint limit = clock_.now() + kConnectLimit;
  while (counts_.connect == 0 && free_.size() < connections_.size() && clock_.now() < limit) {
    if (auto status = poll(limit); !status) return status;
  }
  if (counts_.connect == 0 && free_.size() == connections_.size()) return {};
  return make_error(Code::kUnavailable, "could not open " + std::to_string(connections_.size()) +
                                            " connections to " + options_.target_text);
}

Status LoadGenerator::watch(int fd, std::uint64_t id, std::uint32_t events) const {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return {};
  return os_error(errno, "epoll_ctl");
}

Status LoadGenerator::poll(TimePoint until) {
  const bool past = until <= clock_.now();
  if (!past) {
    if (auto status = arm(until); !status) return status;
  }
  std::array<epoll_event, 256> events;
  const int ready =
      ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), past ? 0 : -1);
  if (ready < 0 && errno != EINTR) return os_error(errno, "epoll_wait");
  for (int i = 0; i < ready; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    if (event.data.u64 == kTimerId) {
      armed_.reset();
    } else {
      on_event(event.data.u64, event.events);
    }
  }
  return {};
}

Status LoadGenerator::arm(TimePoint until) {
  // Absolute, so that it stays right over any number of waits: programming a timer of a virtual
  // machine is one of the dearest things this loop does.
  if (armed_ == until) return {};
  const nanoseconds at = until.time_since_epoch();
  itimerspec timer{};
  timer.it_value.tv_sec = at / std::chrono::seconds(1);
  timer.it_value.tv_nsec = (at % std::chrono::seconds(1)).count();
  if (::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &timer, nullptr) != 0) {
    return os_error(errno, "timerfd_settime");
  }
  armed_ = until;
  return {};
}

void LoadGenerator::enqueue_free(TimePoint now) {
  while (queue_.size() < std::min(free_.size(), queue_.capacity())) {
    ++counts_.scheduled;
    queue_.push(now);
  }
}

void LoadGenerator::enqueue_due(TimePoint now, TimePoint end) {
  for (; next_due_ <= now && next_due_ < end; next_due_ += seconds(gap_seconds_(random_))) {
    ++counts_.scheduled;
    if (queue_.size() == queue_.capacity()) {
      ++counts_.dropped;
      continue;
    }
    // A request delayed by this thread alone does not count: a connection is free for it.
    if (queue_.size() >= free_.size()) ++counts_.queued;
    queue_.push(next_due_);
    counts_.deepest_queue = std::max(counts_.deepest_queue, queue_.size());
  }
}

void LoadGenerator::dispatch() {
  while (!queue_.empty() && !free_.empty()) {
    const TimePoint due = queue_.pop();
    start(free_.pop(), due);
  }
}

void LoadGenerator::start(std::size_t index, TimePoint due) {
  Connection& connection = connections_[index];
  connection.due = due;
  if (connection.state == Connection::State::kIdle) {
    // One short request on an empty socket: the kernel takes all of it, or the connection is gone.
    if (!send_request(connection)) fail(index, counts_.io);
  } else {
    start_connection(index);
  }
}

void LoadGenerator::start_connection(std::size_t index) {
  Connection& connection = connections_[index];
  auto fd = tools::start_connect(options_.target);
  if (!fd) return fail(index, counts_.connect);
  connection.fd = std::move(*fd);
  connection.state = Connection::State::kConnecting;
  // On this host the handshake is over when connect() returns: then no event is needed for it.
  const bool sent = connection.due && send_request(connection);
  if (connection.due && !sent && errno != EAGAIN) return fail(index, counts_.connect);
  const std::uint32_t events = sent ? kReceiveEvents : kReceiveEvents | EPOLLOUT;
  if (!watch(connection.fd.get(), index, events)) fail(index, counts_.connect);
}

bool LoadGenerator::send_request(Connection& connection) {
  const TimePoint now = clock_.now();
  const ssize_t sent = ::send(connection.fd.get(), request_.data(), request_.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(request_.size())) return false;
  connection.state = Connection::State::kReadingHead;
  connection.head.clear();
  send_lag_.add(now - *connection.due);
  return true;
}

void LoadGenerator::on_event(std::size_t index, std::uint32_t events) {
  Connection& connection = connections_[index];
  if (connection.state == Connection::State::kConnecting) {
    if (!tools::connect_error(connection.fd)) return fail(index, counts_.connect);
    if ((events & EPOLLOUT) == 0) return;
    if (!connection.due) return release(index, Connection::State::kIdle);
    if (!send_request(connection)) fail(index, counts_.connect);
    return;
  }
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) == 0) return;
  receive(index, (events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0);
}

void LoadGenerator::receive(std::size_t index, bool to_end) {
  for (;;) {
    const ssize_t got =
        ::recv(connections_[index].fd.get(), chunk_.data(), chunk_.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return on_end(index);
    const auto bytes = static_cast<std::size_t>(got);
    if (!take(index, {chunk_.data(), bytes})) return;
    // A short read emptied the socket, and what comes later is another edge; but the edge of a FIN
    // that came with these bytes is this one.
    if (bytes < chunk_.size() && !to_end) return;
  }
}

void LoadGenerator::on_end(std::size_t index) {
  Connection& connection = connections_[index];
  switch (connection.state) {
    case Connection::State::kAwaitingFin:
      return release(index, Connection::State::kClosed);
    case Connection::State::kIdle:
      return close_idle(connection);
    default:
      return fail(index, counts_.io);
  }
}

bool LoadGenerator::take(std::size_t index, std::string_view bytes) {
  Connection& connection = connections_[index];
  if (connection.state == Connection::State::kIdle) {  // bytes that nobody asked for
    ++counts_.io;
    close_idle(connection);
    return false;
  }
  bool valid = true;
  if (connection.state == Connection::State::kReadingHead) {
    valid = take_head(connection, bytes);
    if (valid && connection.state == Connection::State::kReadingHead) return true;
  }
  if (!valid || connection.state != Connection::State::kReadingBody ||
      bytes.size() > connection.body_left) {
    fail(index, counts_.io);
    return false;
  }
  connection.body_left -= bytes.size();
  if (connection.body_left == 0) complete(index);
  return true;
}

/// Cuts the head off `bytes`. False: this is not HTTP as known here. Goes on to kReadingBody when
/// the head is complete.
bool LoadGenerator::take_head(Connection& connection, std::string_view& bytes) {
  const bool known =
      connection.head.empty() && !known_head_.empty() && bytes.starts_with(known_head_);
  std::size_t head_bytes = known_head_.size();
  if (!known) {
    const std::size_t before = connection.head.size();
    connection.head.append(bytes);
    const auto parsed = tools::parse_http_head(connection.head);
    if (!parsed || (*parsed && (*parsed)->chunked)) return false;
    if (!*parsed) return true;
    const tools::HttpHead& head = **parsed;
    known_head_.assign(connection.head, 0, head.head_bytes);
    known_body_bytes_ = head.content_length;
    known_close_ = head.connection_close;
    known_accepted_ = head.start_line[1].starts_with('2');
    head_bytes = head.head_bytes - before;
    connection.head.clear();
  }
  bytes.remove_prefix(head_bytes);
  connection.body_left = known_body_bytes_;
  connection.close_after_body = known_close_;
  connection.accepted = known_accepted_;
  connection.state = Connection::State::kReadingBody;
  return true;
}

void LoadGenerator::complete(std::size_t index) {
  Connection& connection = connections_[index];
  last_answer_ = clock_.now();
  if (connection.accepted) {
    ++counts_.answered;
    if (*connection.due - begin_ >= seconds(options_.warmup_seconds)) {
      latency_.add(last_answer_ - *connection.due);
    }
  } else {
    ++counts_.status;
  }
  connection.due.reset();
  if (options_.keepalive && !connection.close_after_body) {
    release(index, Connection::State::kIdle);
  } else {
    connection.state = Connection::State::kAwaitingFin;
  }
}

void LoadGenerator::close_idle(Connection& connection) {
  connection.fd.reset();
  connection.state = Connection::State::kClosed;
}

void LoadGenerator::fail(std::size_t index, std::uint64_t& reason) {
  ++reason;
  connections_[index].due.reset();
  release(index, Connection::State::kClosed);
}

void LoadGenerator::release(std::size_t index, Connection::State state) {
  Connection& connection = connections_[index];
  if (state == Connection::State::kClosed) connection.fd.reset();
  connection.state = state;
  free_.push(index);
}

}  // namespace weir::bench
