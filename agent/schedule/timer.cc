// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/timer.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir::schedule {

namespace {

// Far beyond any deadline, and far from overflowing what a condition variable adds to its clock.
constexpr Duration kLongestWait = std::chrono::hours(1);

}  // namespace

TimerThread::TimerThread(const Clock& clock) : clock_(clock), thread_([this] { run(); }) {}

TimerThread::~TimerThread() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_one();
  // ~thread_ joins, after the lock is released.
}

TimerThread::Timer TimerThread::arm(TimePoint when, std::function<void()> call) {
  const std::lock_guard lock(mutex_);
  const Timer timer{when, next_number_++};
  const auto place = armed_.emplace(timer, std::move(call)).first;
  if (place == armed_.begin()) changed_.notify_one();
  return timer;
}

bool TimerThread::disarm(const Timer& timer) {
  std::function<void()> dropped;  // destroyed outside the lock: it may own anything
  const std::lock_guard lock(mutex_);
  const auto place = armed_.find(timer);
  if (place == armed_.end()) return false;
  dropped = std::move(place->second);
  armed_.erase(place);
  return true;
}

bool TimerThread::cancel(const Timer& timer) {
  if (disarm(timer)) return true;
  std::unique_lock lock(mutex_);
  if (std::this_thread::get_id() != thread_.get_id()) {
    finished_.wait(lock, [&] { return running_ != timer.number; });
  }
  return false;
}

std::size_t TimerThread::armed() const {
  const std::lock_guard lock(mutex_);
  return armed_.size();
}

void TimerThread::wake() {
  const std::lock_guard lock(mutex_);
  ++wakes_;
  changed_.notify_one();
}

void TimerThread::run() {
  pthread_setname_np(pthread_self(), "timer");
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const TimePoint now = clock_.now();
    if (armed_.empty() || armed_.begin()->first.when > now) {
      // wake() takes the lock: none comes between the look at the clock and the wait.
      const std::uint64_t wakes = wakes_;
      const Duration left =
          armed_.empty() ? kLongestWait : std::min(kLongestWait, armed_.begin()->first.when - now);
      const auto first = armed_.empty() ? std::uint64_t{0} : armed_.begin()->first.number;
      changed_.wait_for(lock, left, [&] {
        const auto new_first = armed_.empty() ? std::uint64_t{0} : armed_.begin()->first.number;
        return stopping_ || wakes_ != wakes || new_first != first;
      });
      continue;
    }
    const auto place = armed_.begin();
    running_ = place->first.number;
    std::function<void()> call = std::move(place->second);
    armed_.erase(place);
    lock.unlock();
    call();
    call = nullptr;  // what it owns goes before cancel() is told
    lock.lock();
    running_ = 0;
    finished_.notify_all();
  }
}

}  // namespace weir::schedule
