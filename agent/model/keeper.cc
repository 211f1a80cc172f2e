// SPDX-License-Identifier: Apache-2.0
#include "agent/model/keeper.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir::model {

namespace {

constexpr Duration kLongestWait = std::chrono::hours(1);

}  // namespace

Keeper::Keeper(const Clock& clock, std::function<std::optional<TimePoint>()> look)
    : clock_(clock), look_(std::move(look)), thread_([this] { run(); }) {}

Keeper::~Keeper() { stop(); }

void Keeper::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

bool Keeper::post(std::function<void()> job) {
  const std::lock_guard lock(mutex_);
  if (jobs_.size() >= kMostJobs) return false;
  jobs_.push_back(std::move(job));
  changed_.notify_one();
  return true;
}

void Keeper::wake() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_one();
}

void Keeper::run() {
  pthread_setname_np(pthread_self(), "models");
  std::optional<TimePoint> next;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (!jobs_.empty()) {
      std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      job = nullptr;  // what it owns goes outside the lock
      lock.lock();
      woken_ = true;
    } else if (woken_ || (next && clock_.now() >= *next)) {
      woken_ = false;
      lock.unlock();
      next = look_();
      lock.lock();
    } else {
      const Duration left = next ? std::min(kLongestWait, *next - clock_.now()) : kLongestWait;
      changed_.wait_for(lock, left, [this] { return stopping_ || woken_ || !jobs_.empty(); });
    }
  }
}

}  // namespace weir::model
