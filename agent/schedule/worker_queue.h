// SPDX-License-Identifier: Apache-2.0
//
// The queue that all workers of a pool share: tasks from outside, and what overflows a worker's
// ring. First in, first out, in chunks of half a ring, so that a lock is taken once per batch.
//
// Thread-safe: every method from any thread. Owns its tasks. Memory is what the waiting tasks need,
// and a few chunks for the next ones.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>

#include "agent/base/clock.h"
#include "agent/schedule/task.h"
#include "agent/schedule/worker_ring.h"

namespace weir::schedule {

class WorkerQueue {
 public:
  using Ring = WorkerRing<Task>;

  WorkerQueue() = default;
  WorkerQueue(const WorkerQueue&) = delete;
  WorkerQueue& operator=(const WorkerQueue&) = delete;
  /// Drops what is left, without running it.
  ~WorkerQueue();

  /// Appends all of the tasks, unless more than `most` would wait then or the queue is closed: then
  /// none, and they stay with the caller. Why it was not:
  enum class Refused : std::uint8_t { kNot, kFull, kClosed };
  [[nodiscard]] Refused push(std::span<Task> tasks, std::size_t most);

  /// Appends the older half of the owner's full ring; false when a thief is just making room there.
  /// Never refused: a worker's own tasks have been accepted already.
  [[nodiscard]] bool push_half_of(Ring& ring);

  /// Appends one that was accepted already.
  void push_accepted(Task& task);

  /// Moves a fair part of what waits, for one of `workers`, into the calling owner's empty ring;
  /// how many.
  [[nodiscard]] std::uint32_t take(Ring& ring, std::uint32_t workers);

  /// The oldest task; false: none.
  [[nodiscard]] bool take_one(Task& out);

  /// From now on push() refuses.
  void close();

  [[nodiscard]] std::size_t size() const { return size_.load(std::memory_order_acquire); }

  /// Since when something has been waiting here at least that long without the queue having been
  /// empty; unset when empty.
  [[nodiscard]] std::optional<TimePoint> waiting_since() const;

 private:
  static constexpr std::uint32_t kChunkTasks = Ring::kHalf;
  struct Chunk;

  [[nodiscard]] Chunk* new_chunk_locked();
  void append_locked(Task& task);
  void link_locked(Chunk* chunk);
  void unlink_first_locked();
  void recycle_locked(Chunk* chunk);

  alignas(kCacheLineBytes) std::atomic<std::size_t> size_{0};  ///< written under mutex_
  alignas(kCacheLineBytes) mutable std::mutex mutex_;
  // Guarded by mutex_.
  Chunk* first_ = nullptr;
  Chunk* last_ = nullptr;
  Chunk* spare_ = nullptr;  ///< empty chunks
  std::size_t spares_ = 0;
  bool closed_ = false;
};

}  // namespace weir::schedule
