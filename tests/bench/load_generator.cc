// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/load_generator.h"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <fstream>
#include <utility>

#include "tests/tools/http_head.h"

namespace weir::bench {
namespace {

using std::chrono::nanoseconds;

constexpr std::chrono::seconds kDrainLimit{5};
constexpr std::chrono::seconds kConnectLimit{5};

/// CPU time of this process: the same account as /proc/PID/schedstat.
nanoseconds own_cpu() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return std::chrono::seconds(used.tv_sec) + nanoseconds(used.tv_nsec);
}

}  // namespace

LoadGenerator::LoadGenerator(Options options)
    : options_(std::move(options)), random_(options_.seed), gap_seconds_(options_.rate) {
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
  const auto length = std::chrono::duration<double>(options_.seconds);
  const TimePoint end = begin_ + std::chrono::duration_cast<Duration>(length);
  next_due_ = begin_;
  const auto busy = [this] { return free_.size() < connections_.size() || !queue_.empty(); };
  for (TimePoint now = begin_; next_due_ < end || (busy() && now < end + kDrainLimit);
       now = clock_.now()) {
    while (next_due_ <= now && next_due_ < end) enqueue_due();
    dispatch();
    if (auto status = poll(next_due_ < end ? next_due_ : end + kDrainLimit); !status) {
      return status;
    }
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
  connections_.resize(options_.connections);
  for (std::size_t i = 0; i < connections_.size(); ++i) free_.push_back(i);
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

Status LoadGenerator::poll(TimePoint until) {
  const nanoseconds left = std::max<nanoseconds>(until - clock_.now(), nanoseconds(0));
  timespec wait{};
  wait.tv_sec = left / std::chrono::seconds(1);
  wait.tv_nsec = (left % std::chrono::seconds(1)).count();
  std::array<epoll_event, 256> events;
  const int ready =
      ::epoll_pwait2(epoll_.get(), events.data(), static_cast<int>(events.size()), &wait, nullptr);
  if (ready < 0 && errno != EINTR) return os_error(errno, "epoll_pwait2");
  for (int i = 0; i < ready; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    on_event(event.data.u64, event.events);
  }
  return {};
}

void LoadGenerator::enqueue_due() {
  ++counts_.scheduled;
  if (queue_.size() >= options_.max_queue) {
    ++counts_.dropped;
  } else {
    // A request delayed by this thread alone does not count: a connection is free for it.
    if (queue_.size() >= free_.size()) ++counts_.queued;
    queue_.push_back(next_due_);
    counts_.deepest_queue = std::max(counts_.deepest_queue, queue_.size());
  }
  const auto gap = std::chrono::duration<double>(gap_seconds_(random_));
  next_due_ += std::chrono::duration_cast<Duration>(gap);
}

void LoadGenerator::dispatch() {
  while (!queue_.empty() && !free_.empty()) {
    const TimePoint due = queue_.front();
    const std::size_t index = free_.front();
    queue_.pop_front();
    free_.pop_front();
    start(index, due);
  }
}

void LoadGenerator::start(std::size_t index, TimePoint due) {
  Connection& connection = connections_[index];
  connection.due = due;
  if (connection.state == Connection::State::kIdle) {
    send_request(connection);
  } else {
    start_connection(index);
  }
}

void LoadGenerator::start_connection(std::size_t index) {
  Connection& connection = connections_[index];
  auto fd = tools::start_connect(options_.target);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = index;
  if (!fd || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd->get(), &event) != 0) {
    return fail(index, counts_.connect);
  }
  connection.fd = std::move(*fd);
  connection.state = Connection::State::kConnecting;
}

void LoadGenerator::send_request(Connection& connection) {
  connection.state = Connection::State::kReading;
  connection.received.clear();
  send_lag_.add(clock_.now() - *connection.due);
  // One short request on an empty socket: the kernel takes all of it, or the connection is gone;
  // then the following event says so.
  (void)::send(connection.fd.get(), request_.data(), request_.size(), MSG_NOSIGNAL);
}

void LoadGenerator::on_event(std::size_t index, std::uint32_t events) {
  Connection& connection = connections_[index];
  if (connection.state == Connection::State::kConnecting) {
    if (!tools::connect_error(connection.fd)) return fail(index, counts_.connect);
    if ((events & EPOLLOUT) == 0) return;
    if (!connection.due) return release(index, Connection::State::kIdle);
    return send_request(connection);
  }
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0) receive(index);
}

void LoadGenerator::receive(std::size_t index) {
  Connection& connection = connections_[index];
  std::array<char, 65536> chunk;
  for (;;) {
    const ssize_t got = ::recv(connection.fd.get(), chunk.data(), chunk.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got > 0) {
      if (connection.state == Connection::State::kIdle) {  // bytes that nobody asked for
        ++counts_.io;
        return close_idle(connection);
      }
      if (connection.state != Connection::State::kReading) return fail(index, counts_.io);
      connection.received.append(chunk.data(), static_cast<std::size_t>(got));
      take_response(index);
      if (connection.state == Connection::State::kClosed) return;
      continue;
    }
    switch (connection.state) {
      case Connection::State::kAwaitingFin:
        return release(index, Connection::State::kClosed);
      case Connection::State::kIdle:
        return close_idle(connection);
      default:
        return fail(index, counts_.io);
    }
  }
}

void LoadGenerator::take_response(std::size_t index) {
  Connection& connection = connections_[index];
  const auto parsed = tools::parse_http_head(connection.received);
  if (!parsed || (*parsed && (*parsed)->chunked)) return fail(index, counts_.io);
  if (!*parsed) return;
  const tools::HttpHead& head = **parsed;
  const std::size_t length = head.head_bytes + head.content_length;
  if (connection.received.size() < length) return;
  if (connection.received.size() > length) return fail(index, counts_.io);

  last_answer_ = clock_.now();
  if (head.start_line[1].starts_with('2')) {
    ++counts_.answered;
    const auto warmup = std::chrono::duration<double>(options_.warmup_seconds);
    if (*connection.due - begin_ >= warmup) latency_.add(last_answer_ - *connection.due);
  } else {
    ++counts_.status;
  }
  connection.due.reset();
  if (options_.keepalive && !head.connection_close) {
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
  free_.push_back(index);
}

}  // namespace weir::bench
