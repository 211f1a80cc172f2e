// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/client.h"

#include <algorithm>

namespace weir::replay {

Client::Client(boost::asio::io_context& io, const boost::asio::ip::tcp::endpoint& target,
               const Options& options, const RequestText& requests, const Clock& clock,
               ClientObserver& observer)
    : timeout_(options.timeout),
      max_connections_(options.connections),
      max_inflight_(options.max_inflight),
      clock_(clock),
      observer_(observer),
      shared_{.io = io, .target = target, .requests = requests, .clock = clock, .observer = *this},
      timer_(io) {}

Client::~Client() = default;

bool Client::send(const Arrival& arrival, TimePoint due) {
  if (stopped_ || inflight() >= max_inflight_) return false;
  if (free_.empty() && connections_.size() < max_connections_) {
    free_.push_back(connections_.size());
    connections_.push_back(std::make_unique<Connection>(shared_, connections_.size()));
  }
  if (free_.empty()) {
    ++reading_.waited;
    waiting_.push_back({arrival, due});
  } else {
    const std::size_t index = free_.back();
    free_.pop_back();
    start(index, arrival, due);
  }
  reading_.inflight_peak = std::max<std::uint64_t>(reading_.inflight_peak, inflight());
  return true;
}

void Client::start(std::size_t index, const Arrival& arrival, TimePoint due) {
  ++busy_;
  reading_.connections_peak = std::max<std::uint64_t>(reading_.connections_peak, busy_);
  deadlines_.push_back({due + timeout_, index, arrival.serial});
  watch_deadlines();
  connections_[index]->start(arrival, due);
}

void Client::on_end(std::size_t index, const Exchange& exchange, const Answer& answer,
                    TimePoint now) {
  --busy_;
  free_.push_back(index);
  // Not left to the timer, which may be a minute away.
  while (!deadlines_.empty() && is_over(deadlines_.front())) deadlines_.pop_front();
  observer_.on_end(exchange, answer, now);
  start_waiting(now);
}

bool Client::is_over(const Deadline& deadline) const {
  return connections_[deadline.connection]->serial() != deadline.serial;
}

void Client::start_waiting(TimePoint now) {
  while (!waiting_.empty() && !free_.empty()) {
    const Waiting next = waiting_.front();
    waiting_.pop_front();
    if (next.due + timeout_ <= now) {
      Exchange unsent;
      unsent.arrival = next.arrival;
      unsent.due = next.due;
      observer_.on_end(unsent, error_answer("timeout_unsent"), now);
      continue;
    }
    const std::size_t index = free_.back();
    free_.pop_back();
    start(index, next.arrival, next.due);
  }
}

void Client::watch_deadlines() {
  if (timer_set_ || deadlines_.empty() || stopped_) return;
  timer_set_ = true;
  timer_.expires_at(deadlines_.front().at);
  timer_.async_wait([this](const boost::system::error_code& error) {
    timer_set_ = false;
    if (!error) end_late();
  });
}

void Client::end_late() {
  const TimePoint now = clock_.now();
  while (!deadlines_.empty() && (deadlines_.front().at <= now || is_over(deadlines_.front()))) {
    const Deadline deadline = deadlines_.front();
    deadlines_.pop_front();
    if (!is_over(deadline)) connections_[deadline.connection]->abandon("timeout");
  }
  watch_deadlines();
}

void Client::abandon_all(const char* reason) {
  stopped_ = true;
  timer_.cancel();
  const TimePoint now = clock_.now();
  while (!waiting_.empty()) {
    Exchange unsent;
    unsent.arrival = waiting_.front().arrival;
    unsent.due = waiting_.front().due;
    waiting_.pop_front();
    observer_.on_end(unsent, error_answer(reason), now);
  }
  for (const auto& connection : connections_) connection->abandon(reason);
}

}  // namespace weir::replay
