// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/worker_pool.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <optional>
#include <system_error>
#include <utility>

#include "agent/base/spin.h"

namespace weir::schedule {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

/// So many tasks from the slot may run before one from the ring is due.
constexpr std::uint32_t kMostFromSlot = 8;
/// How often the shared queue is asked before the worker's own; prime, so that it keeps no step
/// with patterns in the tasks. Go and Tokio use the same number.
constexpr std::uint32_t kSharedQueueEvery = 61;

/// How long a worker searches in vain before it parks: about what waking it costs.
constexpr Duration kSearch = microseconds(20);
/// Between two looks of a searching worker. Each look takes cache lines away from the busy workers.
constexpr int kPausesPerLook = 16;
/// The same while it waits for tasks that it must leave alone for now: their worker is busy, and
/// with 16 each of its tasks took 2 to 3 % longer (bench-dispatch, 2 workers on 2 cores).
constexpr int kPausesPerLookAtTasks = 24;

/// Tasks are left to their worker for this long: it is likely to run them sooner than a thief,
/// which has to fetch them from another core's cache. While a worker submits without end, this is
/// also what makes a theft worth its cost: half of what gathers meanwhile is taken. Measured with
/// empty tasks, 256 outstanding, 4 workers on 2 cores (bench-dispatch): 3 us 127 ns each and a
/// median wait of 14 us, 1 us 127 ns and 6 us, 0.5 us 131 ns and 4 us.
constexpr Duration kLeaveAlone = microseconds(1);
/// A worker that runs tasks faster than this is left alone for longer: moving such tasks costs more
/// than running them.
constexpr Duration kQuickTask = nanoseconds(250);
constexpr Duration kLeaveQuickAlone = microseconds(50);

/// Counters with one writer: no locked instruction.
void add(std::atomic<std::uint64_t>& counter, std::uint64_t more = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
}

}  // namespace

struct WorkerPool::Worker {
  /// What a searching worker has seen of another.
  struct Look {
    std::optional<TimePoint> since;  ///< when it first had something; unset: it has nothing
    std::uint64_t executed = 0;      ///< by it, then
  };

  Worker(WorkerPool& owner, std::uint32_t number, std::size_t workers)
      : pool(owner), index(number), random(number + 1), looks(workers) {}

  WorkerPool& pool;
  const std::uint32_t index;

  // The worker's own thread only.
  std::uint32_t tick = 0;
  std::uint32_t slot_streak = 0;  ///< tasks run from the slot since the last one from the ring
  std::uint32_t random;           ///< never 0
  std::vector<Look> looks;        ///< by index

  // Written by that thread, read by all.
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> executed{0};
  std::atomic<std::uint64_t> from_slot{0};
  std::atomic<std::uint64_t> steals{0};
  std::atomic<std::uint64_t> stolen_tasks{0};
  std::atomic<std::uint64_t> overflows{0};
  std::atomic<std::uint64_t> parks{0};

  WorkerSlot<Task> slot;
  Ring ring;
  alignas(kCacheLineBytes) WorkerParker parker;

  // Guarded by threads_mutex_.
  std::thread thread;  ///< may have ended; is joined before another one takes its place
  bool live = false;
};

namespace {
thread_local void* this_worker = nullptr;
}  // namespace

WorkerPool::Worker* WorkerPool::current() { return static_cast<Worker*>(this_worker); }

Result<std::unique_ptr<WorkerPool>> WorkerPool::create(Options options) {
  if (options.max_workers < 1 || options.max_workers > kMostWorkers) {
    return make_error(Code::kInvalidArgument, fmt::format("max_workers is {}, not 1..{}",
                                                          options.max_workers, kMostWorkers));
  }
  if (options.min_workers < 1 || options.min_workers > options.max_workers) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("min_workers is {}, not 1..max_workers ({})", options.min_workers,
                                  options.max_workers));
  }
  if (options.max_queued < 1) {
    return make_error(Code::kInvalidArgument, "max_queued is 0");
  }
  if (options.name.size() > 11) {
    return make_error(Code::kInvalidArgument, "name has more than 11 bytes");
  }
  std::unique_ptr<WorkerPool> pool(new WorkerPool(std::move(options)));
  const std::lock_guard lock(pool->threads_mutex_);
  for (std::uint32_t i = 0; i < pool->options_.min_workers; ++i) {
    if (!pool->start_worker_locked(*pool->workers_[i])) {
      return make_error(Code::kResourceExhausted,
                        fmt::format("{}: the system has no more threads after {} of {}",
                                    pool->options_.name, i, pool->options_.min_workers));
    }
  }
  return pool;
}

WorkerPool::WorkerPool(Options options)
    : options_(std::move(options)), idle_(options_.max_workers) {
  for (std::uint32_t i = 0; i < options_.max_workers; ++i) {
    workers_.push_back(std::make_unique<Worker>(*this, i, options_.max_workers));
  }
}

WorkerPool::~WorkerPool() { stop(); }

bool WorkerPool::start_worker_locked(Worker& worker) {
  if (worker.thread.joinable()) {
    worker.thread.join();  // retired; it is about to return
  }
  worker.live = true;
  live_.fetch_add(1);
  try {
    worker.thread = std::thread([this, &worker] { run(worker); });
  } catch (const std::system_error&) {
    worker.live = false;
    live_.fetch_sub(1);
    return false;
  }
  const std::string name = fmt::format("{}-{}", options_.name, worker.index);
  pthread_setname_np(worker.thread.native_handle(), name.c_str());
  return true;
}

// ---- submitting ---------------------------------------------------------------------------------

WorkerPool::Submitted WorkerPool::submit(Task&& task) {
  Worker* const worker = current();
  if (worker != nullptr && &worker->pool == this) {
    submit_inside(*worker, task);
    return Submitted::kAccepted;
  }
  return submit(std::span<Task>(&task, 1));
}

WorkerPool::Submitted WorkerPool::submit(std::span<Task> tasks) {
  Worker* const worker = current();
  if (worker != nullptr && &worker->pool == this) {
    for (Task& task : tasks) {
      push_ring(*worker, task);
    }
    idle_.wake_one();
    return Submitted::kAccepted;
  }
  switch (queue_.push(tasks, options_.max_queued)) {
    case WorkerQueue::Refused::kClosed:
      refused_stopped_.fetch_add(tasks.size(), std::memory_order_relaxed);
      return Submitted::kStopped;
    case WorkerQueue::Refused::kFull:
      refused_full_.fetch_add(tasks.size(), std::memory_order_relaxed);
      return Submitted::kFull;
    case WorkerQueue::Refused::kNot:
      break;
  }
  injected_.fetch_add(tasks.size(), std::memory_order_relaxed);
  idle_.wake_one();
  grow_if_waiting();
  return Submitted::kAccepted;
}

void WorkerPool::submit_inside(Worker& worker, Task& task) {
  if (!worker.slot.put(task)) {
    // What was in the slot goes to the ring, unless a thief is just taking it. Then this one goes.
    static_cast<void>(worker.slot.displace(task));
    push_ring(worker, task);
  }
  idle_.wake_one();
}

void WorkerPool::push_ring(Worker& worker, Task& task) {
  if (worker.ring.push(task)) {
    return;
  }
  if (queue_.push_half_of(worker.ring)) {
    add(worker.overflows);
    if (worker.ring.push(task)) {
      return;
    }
  }
  queue_.push_accepted(task);
}

void WorkerPool::grow_if_waiting() {
  if (live_.load(std::memory_order_relaxed) >= options_.max_workers) {
    return;
  }
  const Idle::Counts counts = idle_.counts();
  if (counts.parked > 0 || counts.searching > 0) {
    return;
  }
  const auto since = queue_.waiting_since();
  if (!since || std::chrono::steady_clock::now() - *since < options_.grow_after) {
    return;
  }
  // Whoever does not get the lock: somebody is starting one already.
  const std::unique_lock lock(threads_mutex_, std::try_to_lock);
  if (!lock || stopping_) {
    return;
  }
  const auto at = std::find_if(workers_.begin(), workers_.end(),
                               [](const auto& worker) { return !worker->live; });
  // Without another one the tasks wait longer, and are run all the same.
  if (at != workers_.end() && start_worker_locked(**at)) {
    grown_.fetch_add(1, std::memory_order_relaxed);
  }
}

// ---- a worker's life ----------------------------------------------------------------------------

void WorkerPool::run(Worker& worker) {
  this_worker = &worker;
  Task task;
  do {
    while (next(worker, task)) {
      add(worker.executed);
      std::move(task)();
    }
  } while (search(worker));
  this_worker = nullptr;
}

bool WorkerPool::next(Worker& worker, Task& task) {
  if (++worker.tick % kSharedQueueEvery == 0 && queue_.take_one(task)) {
    return true;
  }
  if (worker.slot_streak < kMostFromSlot && worker.slot.take(task)) {
    ++worker.slot_streak;
    add(worker.from_slot);
    return true;
  }
  if (worker.ring.pop(task)) {
    worker.slot_streak = 0;
    return true;
  }
  if (worker.slot.take(task)) {
    add(worker.from_slot);
    return true;
  }
  if (queue_.take(worker.ring, live_.load(std::memory_order_relaxed)) == 0) {
    return false;
  }
  grow_if_waiting();
  return worker.ring.pop(task);
}

/// Returns when the worker's ring has something, or, false, when its thread is to end.
bool WorkerPool::search(Worker& worker) {
  bool searching = idle_.begin_search(live_.load(std::memory_order_relaxed));
  for (;;) {
    if (searching) {
      for (Worker::Look& look : worker.looks) {
        look.since.reset();
      }
      TimePoint give_up = std::chrono::steady_clock::now() + kSearch;
      for (;;) {
        if (queue_.take(worker.ring, live_.load(std::memory_order_relaxed)) > 0) {
          idle_.end_search();
          return true;
        }
        const TimePoint now = std::chrono::steady_clock::now();
        bool seen = false;
        if (visit_others(worker, seen, now)) {
          idle_.end_search();
          return true;
        }
        if (seen) {
          give_up = now + kSearch;  // somebody's tasks that it may take in a moment
        } else if (now >= give_up) {
          break;
        }
        for (int i = seen ? kPausesPerLookAtTasks : kPausesPerLook; i > 0; --i) {
          relax();
        }
      }
    }
    if (ended_) {
      return false;
    }
    if (park(worker, searching)) {
      searching = true;
    } else if (retire(worker)) {
      return false;
    } else {
      searching = idle_.begin_search(live_.load(std::memory_order_relaxed));
    }
    if (ended_) {
      return false;
    }
  }
}

/// One round past the other workers. True: took something; `seen`: there was something to take.
bool WorkerPool::visit_others(Worker& worker, bool& seen, TimePoint now) {
  worker.random ^= worker.random << 13;
  worker.random ^= worker.random >> 17;
  worker.random ^= worker.random << 5;
  const std::size_t count = workers_.size();
  const std::size_t first = worker.random % count;
  for (std::size_t i = 0; i < count; ++i) {
    Worker& victim = *workers_[(first + i) % count];
    if (&victim == &worker) {
      continue;
    }
    Worker::Look& look = worker.looks[victim.index];
    if (victim.ring.size() == 0 && !victim.slot.full()) {
      look.since.reset();
      continue;
    }
    seen = true;
    const std::uint64_t executed = victim.executed.load(std::memory_order_relaxed);
    if (!look.since) {
      look = {now, executed};
      continue;
    }
    const Duration age = now - *look.since;
    const auto ran = static_cast<std::int64_t>(executed - look.executed);
    const bool quick = ran * kQuickTask >= age;
    if (age >= (quick ? kLeaveQuickAlone : kLeaveAlone) && steal(worker, victim)) {
      return true;
    }
  }
  return false;
}

bool WorkerPool::steal(Worker& worker, Worker& victim) {
  std::uint32_t taken = victim.ring.steal_into(worker.ring);
  if (taken == 0) {
    // Nothing but what it runs next: it is busy with a long task.
    Task task;
    if (!victim.slot.take(task)) {
      return false;
    }
    push_ring(worker, task);
    taken = 1;
  }
  add(worker.steals);
  add(worker.stolen_tasks, taken);
  return true;
}

bool WorkerPool::has_work() const {
  return queue_.size() > 0 || std::any_of(workers_.begin(), workers_.end(), [](const auto& worker) {
           return worker->ring.size() > 0 || worker->slot.full();
         });
}

/// False: idle for longer than it may live.
bool WorkerPool::park(Worker& worker, bool searching) {
  add(worker.parks);
  std::optional<Duration> timeout;
  if (live_.load(std::memory_order_relaxed) > options_.min_workers) {
    timeout = options_.idle_timeout;
  }
  const auto last_look = [&] {
    // In this order: once stopping, nothing comes from outside any more.
    const bool stopping = stopping_;
    if (has_work()) {
      return true;
    }
    // The last of all to park: what was accepted has been run, and nobody is left to submit more.
    if (stopping && idle_.counts().parked == live_) {
      ended_ = true;
      idle_.wake_all();
    }
    return false;
  };
  return idle_.park(worker.parker, searching, last_look, timeout);
}

bool WorkerPool::retire(Worker& worker) {
  const std::lock_guard lock(threads_mutex_);
  // What was queued just before it left the list of parked workers woke nobody.
  if (stopping_ || live_ <= options_.min_workers || has_work()) {
    return false;
  }
  worker.live = false;
  live_.fetch_sub(1);
  shrunk_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void WorkerPool::stop() {
  queue_.close();
  {
    const std::lock_guard lock(threads_mutex_);
    stopping_ = true;
  }
  idle_.wake_one();
  // No thread is started any more.
  for (const auto& worker : workers_) {
    if (worker->thread.joinable()) {
      worker->thread.join();
    }
  }
}

WorkerPoolReading WorkerPool::read() const {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  WorkerPoolReading reading;
  for (const auto& worker : workers_) {
    WorkerReading& one = reading.workers.emplace_back();
    one.executed = worker->executed.load(kRelaxed);
    one.from_slot = worker->from_slot.load(kRelaxed);
    one.steals = worker->steals.load(kRelaxed);
    one.stolen_tasks = worker->stolen_tasks.load(kRelaxed);
    one.overflows = worker->overflows.load(kRelaxed);
    one.parks = worker->parks.load(kRelaxed);
  }
  reading.live = live_.load(kRelaxed);
  reading.injected = injected_.load(kRelaxed);
  reading.refused_full = refused_full_.load(kRelaxed);
  reading.refused_stopped = refused_stopped_.load(kRelaxed);
  reading.grown = grown_.load(kRelaxed);
  reading.shrunk = shrunk_.load(kRelaxed);
  reading.queued = queue_.size();
  const Idle::Counts counts = idle_.counts();
  reading.parked = counts.parked;
  reading.searching = counts.searching;
  return reading;
}

}  // namespace weir::schedule
