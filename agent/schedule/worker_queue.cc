// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/worker_queue.h"

#include <algorithm>
#include <memory>
#include <new>
#include <utility>

namespace weir::schedule {
namespace {

/// 64 chunks of 8 KiB stay when a burst is over.
constexpr std::size_t kMostSpares = 64;

}  // namespace

/// Tasks in [begin, end) are alive; the rest is raw memory.
struct WorkerQueue::Chunk {
  Chunk* next = nullptr;
  TimePoint since;  ///< when its first task was put in
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  alignas(kCacheLineBytes) std::byte raw[kChunkTasks * sizeof(Task)];

  Task* at(std::uint32_t index) {
    return std::launder(reinterpret_cast<Task*>(raw + std::size_t{index} * sizeof(Task)));
  }
  void push(Task& task) {
    ::new (static_cast<void*>(raw + end++ * sizeof(Task))) Task(std::move(task));
  }
  void pop(std::uint32_t count) {
    std::destroy_n(at(begin), count);
    begin += count;
  }
};

WorkerQueue::~WorkerQueue() {
  while (first_ != nullptr) {
    first_->pop(first_->end - first_->begin);
    delete std::exchange(first_, first_->next);
  }
  while (spare_ != nullptr) {
    delete std::exchange(spare_, spare_->next);
  }
}

WorkerQueue::Chunk* WorkerQueue::new_chunk_locked() {
  Chunk* chunk = spare_;
  if (chunk != nullptr) {
    spare_ = chunk->next;
    --spares_;
    chunk->next = nullptr;
    chunk->begin = chunk->end = 0;
  } else {
    chunk = new Chunk;
  }
  chunk->since = std::chrono::steady_clock::now();
  return chunk;
}

void WorkerQueue::recycle_locked(Chunk* chunk) {
  if (spares_ == kMostSpares) {
    delete chunk;
    return;
  }
  chunk->next = spare_;
  spare_ = chunk;
  ++spares_;
}

void WorkerQueue::link_locked(Chunk* chunk) {
  (last_ != nullptr ? last_->next : first_) = chunk;
  last_ = chunk;
}

void WorkerQueue::unlink_first_locked() {
  first_ = first_->next;
  if (first_ == nullptr) {
    last_ = nullptr;
  }
}

void WorkerQueue::append_locked(Task& task) {
  if (last_ == nullptr || last_->end == kChunkTasks) {
    link_locked(new_chunk_locked());
  }
  last_->push(task);
}

WorkerQueue::Refused WorkerQueue::push(std::span<Task> tasks, std::size_t most) {
  const std::lock_guard lock(mutex_);
  if (closed_) {
    return Refused::kClosed;
  }
  const std::size_t waiting = size_.load(std::memory_order_relaxed);
  if (waiting + tasks.size() > most) {
    return Refused::kFull;
  }
  for (Task& task : tasks) {
    append_locked(task);
  }
  size_.store(waiting + tasks.size(), std::memory_order_release);
  return Refused::kNot;
}

void WorkerQueue::push_accepted(Task& task) {
  const std::lock_guard lock(mutex_);
  append_locked(task);
  size_.store(size_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

bool WorkerQueue::push_half_of(Ring& ring) {
  Chunk* chunk = nullptr;
  {
    const std::lock_guard lock(mutex_);
    chunk = new_chunk_locked();
  }
  // Moved outside the lock: 8 KiB.
  chunk->end = ring.take_half(chunk->at(0));
  const bool taken = chunk->end > 0;
  const std::lock_guard lock(mutex_);
  if (!taken) {
    recycle_locked(chunk);
    return false;
  }
  link_locked(chunk);
  size_.store(size_.load(std::memory_order_relaxed) + chunk->end, std::memory_order_release);
  return true;
}

std::uint32_t WorkerQueue::take(Ring& ring, std::uint32_t workers) {
  if (size() == 0) {
    return 0;
  }
  Chunk* chunk = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (first_ == nullptr) {
      return 0;
    }
    chunk = first_;
    const std::size_t waiting = size_.load(std::memory_order_relaxed);
    const std::uint32_t held = chunk->end - chunk->begin;
    const std::size_t fair = waiting / workers + 1;
    if (fair < held) {
      const std::uint32_t moved =
          ring.push(chunk->at(chunk->begin), static_cast<std::uint32_t>(fair));
      chunk->pop(moved);
      size_.store(waiting - moved, std::memory_order_release);
      return moved;
    }
    unlink_first_locked();
    size_.store(waiting - held, std::memory_order_release);
  }
  // All of the chunk, moved outside the lock. An empty ring has room for two.
  const std::uint32_t moved = ring.push(chunk->at(chunk->begin), chunk->end - chunk->begin);
  chunk->pop(moved);
  const std::lock_guard lock(mutex_);
  if (chunk->begin == chunk->end) {
    recycle_locked(chunk);
  } else {
    // A thief of our own ring has not let go of its slots yet: back to the front.
    chunk->next = first_;
    first_ = chunk;
    if (last_ == nullptr) {
      last_ = chunk;
    }
    size_.store(size_.load(std::memory_order_relaxed) + (chunk->end - chunk->begin),
                std::memory_order_release);
  }
  return moved;
}

bool WorkerQueue::take_one(Task& out) {
  if (size() == 0) {
    return false;
  }
  const std::lock_guard lock(mutex_);
  if (first_ == nullptr) {
    return false;
  }
  Chunk* const chunk = first_;
  out = std::move(*chunk->at(chunk->begin));
  chunk->pop(1);
  if (chunk->begin == chunk->end) {
    unlink_first_locked();
    recycle_locked(chunk);
  }
  size_.store(size_.load(std::memory_order_relaxed) - 1, std::memory_order_release);
  return true;
}

void WorkerQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

std::optional<TimePoint> WorkerQueue::waiting_since() const {
  const std::lock_guard lock(mutex_);
  if (first_ == nullptr) {
    return std::nullopt;
  }
  return first_->since;
}

}  // namespace weir::schedule
