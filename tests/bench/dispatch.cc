// SPDX-License-Identifier: Apache-2.0
//
// weir-dispatch: how long a task waits between being handed to the worker pool and starting to run.
// Does step by step what its Go peer does (tests/bench/peers/dispatch/main.go), and prints the same
// line.
//
// Who submits. In Go the main goroutine submits; it is scheduled like any other and
// occupies one of the processors while it runs. So the submitter here is a task of the pool. Where
// the goroutine blocks (no place in the gate, waiting for the end), the task returns, and whoever
// would wake the goroutine submits it again.
//
// Clocks. Go's time.Now() reads the wall clock and the monotonic one, time.Since() the latter: so
// does this, three reads for each task.
//
// Prints a line for each run. Exit status: 0, 2 for wrong arguments.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <semaphore>
#include <utility>

#include "agent/base/clock.h"
#include "agent/schedule/worker_pool.h"

namespace weir::bench {
namespace {

using schedule::Task;
using schedule::WorkerPool;
using std::chrono::nanoseconds;

struct Options {
  std::size_t tasks = 100000;
  std::uint32_t procs = 2;
  std::uint64_t work_ns = 0;
  std::int64_t batch = 0;
  int runs = 5;
  bool counters = false;
};

/// time.Now().
TimePoint now() {
  // The optimiser must not drop a read whose result nobody uses.
  [[maybe_unused]] const volatile auto wall =
      std::chrono::system_clock::now().time_since_epoch().count();
  return std::chrono::steady_clock::now();
}
/// time.Since().
nanoseconds since(TimePoint then) { return std::chrono::steady_clock::now() - then; }

void spin(nanoseconds duration) {
  for (const TimePoint start = now(); since(start) < duration;) {
  }
}

/// One run: the body of the Go program's loop.
class Run {
 public:
  Run(WorkerPool& pool, const Options& options)
      : pool_(pool),
        options_(options),
        waits_(std::make_unique_for_overwrite<nanoseconds[]>(options.tasks)),
        places_(options.batch) {}

  void operator()() {
    start_ = now();
    submit([this] { submit_tasks(); });
    over_.acquire();
  }

  void print() {
    nanoseconds* const begin = waits_.get();
    nanoseconds* const end = begin + options_.tasks;
    std::sort(begin, end);
    const auto sum = std::accumulate(begin, end, nanoseconds(0));
    const auto us = [](nanoseconds time) { return static_cast<double>(time.count()) / 1e3; };
    const auto count = static_cast<double>(options_.tasks);
    std::printf(
        "weir procs=%u tasks=%zu batch=%lld p50_us=%.2f p99_us=%.2f mean_us=%.2f "
        "wall_ns_per_task=%.1f\n",
        options_.procs, options_.tasks, static_cast<long long>(options_.batch),
        us(begin[options_.tasks / 2]), us(begin[options_.tasks * 99 / 100]), us(sum) / count,
        static_cast<double>(wall_.count()) / count);
  }

 private:
  template <typename Callable>
  void submit(Callable&& callable) {
    // Cannot be refused: the pool is not stopped, and but for the first one these come from inside.
    static_cast<void>(pool_.submit(Task(std::forward<Callable>(callable))));
  }

  /// The main goroutine's loop; goes on where it stopped.
  void submit_tasks() {
    for (; next_ < options_.tasks; ++next_) {
      // Resumed: the place that was given back is ours.
      if (options_.batch > 0 && !std::exchange(has_place_, false)) {
        has_place_ = true;
        if (places_.fetch_sub(1) <= 0) {
          return;  // from here on another worker may be running this
        }
        has_place_ = false;
      }
      unfinished_.fetch_add(1);
      const TimePoint submitted = now();
      submit([this, i = next_, submitted] { run_task(i, submitted); });
    }
    finish_one();
  }

  void run_task(std::size_t i, TimePoint submitted) {
    waits_[i] = since(submitted);
    if (options_.work_ns > 0) {
      spin(nanoseconds(options_.work_ns));
    }
    if (options_.batch > 0 && places_.fetch_add(1) < 0) {
      submit([this] { submit_tasks(); });
    }
    finish_one();
  }

  /// wg.Done(), and wg.Wait() for the submitter, which has one of its own.
  void finish_one() {
    if (unfinished_.fetch_sub(1) == 1) {
      submit([this] {
        wall_ = since(start_);
        over_.release();
      });
    }
  }

  WorkerPool& pool_;
  const Options& options_;
  // As fresh from the kernel as Go's slice: page faults are part of the run.
  const std::unique_ptr<nanoseconds[]> waits_;
  TimePoint start_;
  nanoseconds wall_{0};
  std::binary_semaphore over_{0};

  // The submitter's own; handed from worker to worker with it.
  std::size_t next_ = 0;
  bool has_place_ = false;

  alignas(64) std::atomic<std::int64_t> places_;  ///< below 0: the submitter waits for one
  alignas(64) std::atomic<std::int64_t> unfinished_{1};
};

int main(int argc, char** argv) {
  Options options;
  CLI::App app("How long tasks wait for the worker pool.", "weir-dispatch");
  app.add_option("--tasks", options.tasks, "how many tasks")->check(CLI::Range(1, 100000000));
  app.add_option("--procs", options.procs, "workers")->check(CLI::Range(1, 256));
  app.add_option("--work", options.work_ns, "nanoseconds of spinning per task");
  app.add_option("--batch", options.batch, "outstanding tasks at a time; 0: all")
      ->check(CLI::Range(0, 100000000));
  app.add_option("--runs", options.runs, "runs")->check(CLI::Range(1, 1000));
  app.add_flag("--counters", options.counters, "also what each worker did");
  CLI11_PARSE(app, argc, argv);

  WorkerPool::Options pool_options;
  pool_options.name = "dispatch";
  pool_options.min_workers = pool_options.max_workers = options.procs;
  auto pool = WorkerPool::create(pool_options);
  if (!pool) {
    std::fprintf(stderr, "weir-dispatch: %s\n", pool.error().message.c_str());
    return 1;
  }
  for (int i = 0; i < options.runs; ++i) {
    Run run(**pool, options);
    run();
    run.print();
  }
  if (options.counters) {
    for (const auto& worker : (*pool)->read().workers) {
      std::printf(
          "  executed=%llu from_slot=%llu steals=%llu stolen=%llu overflows=%llu parks=%llu\n",
          static_cast<unsigned long long>(worker.executed),
          static_cast<unsigned long long>(worker.from_slot),
          static_cast<unsigned long long>(worker.steals),
          static_cast<unsigned long long>(worker.stolen_tasks),
          static_cast<unsigned long long>(worker.overflows),
          static_cast<unsigned long long>(worker.parks));
    }
  }
  return 0;
}

}  // namespace
}  // namespace weir::bench

int main(int argc, char** argv) { return weir::bench::main(argc, argv); }
