// SPDX-License-Identifier: Apache-2.0
//
// Threads that run small tasks: tokenizing, templating, encoding, forwarding. What a task
// submits goes to its own worker: into the slot that is run next, from there into the worker's
// ring, and what overflows the ring into the queue that all share, where tasks from outside begin.
// A worker without tasks takes from that queue, then half of another's ring; it parks when there is
// nothing for 20 us. Order: the slot is last in, first out, everything else first in, first out,
// per queue.
//
// Nothing starves: after 8 tasks from the slot one of the ring is due, every 61st task comes from
// the shared queue, and whatever a worker does not come to is stolen. Nothing waits while a worker
// sleeps (worker_idle.h has the proof).
//
// Thread-safe: every method from any thread, stop() and the destructor from outside the pool only.
// Owns threads and tasks. Every accepted task is run, also when the pool is stopped; a refused one
// stays with the caller. Tasks should compute, not wait: while all workers wait, nothing runs.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/schedule/task.h"
#include "agent/schedule/worker_idle.h"
#include "agent/schedule/worker_parker.h"
#include "agent/schedule/worker_queue.h"

namespace weir::schedule {

/// What one worker has done since the pool began; its threads may have come and gone.
struct WorkerReading {
  std::uint64_t executed = 0;      ///< tasks run
  std::uint64_t from_slot = 0;     ///< of these, straight after the task that submitted them
  std::uint64_t steals = 0;        ///< successful ones
  std::uint64_t stolen_tasks = 0;  ///< taken by them
  std::uint64_t overflows = 0;     ///< times that a half of its ring went to the shared queue
  std::uint64_t parks = 0;
};

struct WorkerPoolReading {
  std::vector<WorkerReading> workers;  ///< of all that may ever live
  std::uint64_t injected = 0;          ///< tasks accepted from outside
  std::uint64_t refused_full = 0;
  std::uint64_t refused_stopped = 0;
  std::uint64_t grown = 0;   ///< workers started because tasks waited
  std::uint64_t shrunk = 0;  ///< workers ended because they were idle
  std::uint32_t live = 0;    ///< workers that have a thread now
  std::size_t queued = 0;    ///< in the shared queue now
  std::uint32_t parked = 0;  ///< workers, now
  std::uint32_t searching = 0;
};

class WorkerPool {
 public:
  struct Options {
    std::string name = "pool";  ///< of the threads: NAME-0, ...; at most 11 bytes
    std::uint32_t min_workers = 1;
    std::uint32_t max_workers = 1;  ///< at most kMostWorkers
    /// A worker beyond min_workers that had nothing to do for so long ends.
    Duration idle_timeout = std::chrono::seconds(10);
    /// Another worker starts when tasks have been waiting for so long in the shared queue.
    Duration grow_after = std::chrono::milliseconds(2);
    /// Most tasks in the shared queue; beyond, tasks from outside are refused.
    std::size_t max_queued = std::size_t{1} << 20;
  };
  static constexpr std::uint32_t kMostWorkers = 256;

  enum class Submitted : std::uint8_t { kAccepted, kFull, kStopped };

  /// Fails with kInvalidArgument, or with kResourceExhausted when the system has no threads for
  /// min_workers. Where it has none for more, the pool stays as it is.
  static Result<std::unique_ptr<WorkerPool>> create(Options options);
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;
  /// As stop().
  ~WorkerPool();

  /// Runs `task` soon, on any worker. From inside the pool never refused.
  [[nodiscard]] Submitted submit(Task&& task);

  /// The same for many, at the price of one; all of them or none.
  [[nodiscard]] Submitted submit(std::span<Task> tasks);

  /// Refuses tasks from outside, runs those that were accepted and what these submit, ends the
  /// threads. Again: does nothing.
  void stop();

  [[nodiscard]] WorkerPoolReading read() const;

 private:
  using Ring = WorkerQueue::Ring;
  using Idle = IdleWorkers<WorkerPlatform>;
  struct Worker;

  explicit WorkerPool(Options options);

  /// False: the system has no more threads.
  [[nodiscard]] bool start_worker_locked(Worker& worker);
  void run(Worker& worker);
  [[nodiscard]] bool next(Worker& worker, Task& task);
  [[nodiscard]] bool search(Worker& worker);
  [[nodiscard]] bool visit_others(Worker& worker, bool& seen, TimePoint now);
  [[nodiscard]] bool steal(Worker& worker, Worker& victim);
  [[nodiscard]] bool park(Worker& worker, bool searching);
  [[nodiscard]] bool retire(Worker& worker);
  void submit_inside(Worker& worker, Task& task);
  void push_ring(Worker& worker, Task& task);
  [[nodiscard]] bool has_work() const;
  void grow_if_waiting();

  [[nodiscard]] static Worker* current();

  const Options options_;
  std::vector<std::unique_ptr<Worker>> workers_;  ///< max_workers; some without a thread
  WorkerQueue queue_;
  Idle idle_;
  std::atomic<std::uint32_t> live_{0};  ///< workers with a thread; written under threads_mutex_
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};  ///< every task has been run: the threads end
  std::atomic<std::uint64_t> injected_{0};
  std::atomic<std::uint64_t> refused_full_{0};
  std::atomic<std::uint64_t> refused_stopped_{0};
  std::atomic<std::uint64_t> grown_{0};
  std::atomic<std::uint64_t> shrunk_{0};

  std::mutex threads_mutex_;  ///< who of the workers has a thread
};

}  // namespace weir::schedule
