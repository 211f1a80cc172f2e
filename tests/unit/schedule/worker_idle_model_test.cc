// SPDX-License-Identifier: Apache-2.0
//
// Parking, searching and waking, the very code that the pool runs, through every interleaving, with
// stores that become visible late: no task waits while a worker sleeps.
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "agent/schedule/worker_idle.h"
#include "tests/unit/schedule/worker_model_types.h"

namespace weir::schedule {
namespace {

using model::Explorer;
using model::Limits;
using model::Outcome;
using model::Scenario;

struct ModelPlatform {
  template <typename T>
  using Atomic = model::Atomic<T>;
  using Mutex = model::Mutex;
  using Parker = model::Parker;
  static void fence() { model::fence(); }
};

/// As the ring's end: stored by its owner with release, and nothing orders it with what follows.
class Queue {
 public:
  void push() {
    pushed_.store(pushed_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
  [[nodiscard]] bool has_work() const {
    return pushed_.load(std::memory_order_acquire) > taken_.load(std::memory_order_acquire);
  }
  [[nodiscard]] bool take() {
    int taken = taken_.load(std::memory_order_acquire);
    while (pushed_.load(std::memory_order_acquire) > taken) {
      if (taken_.compare_exchange_strong(taken, taken + 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire)) {
        return true;
      }
    }
    return false;
  }
  [[nodiscard]] int waiting() const {
    return pushed_.load(std::memory_order_relaxed) - taken_.load(std::memory_order_relaxed);
  }

 private:
  model::Atomic<int> pushed_{0};
  model::Atomic<int> taken_{0};
};

struct World {
  explicit World(std::size_t workers) : count(workers), idle(workers) {}

  /// A worker's search as in the pool, until it has found a task; then it computes for ever.
  void work(std::size_t self) {
    bool searching = idle.begin_search(static_cast<std::uint32_t>(count));
    for (;;) {
      if (searching && queue.take()) {
        idle.end_search();
        return;
      }
      static_cast<void>(idle.park(
          parkers[self], searching, [this] { return queue.has_work(); }, std::nullopt));
      searching = true;
    }
  }
  /// A batch, that is with one wake-up.
  void submit(int tasks) {
    for (int i = 0; i < tasks; ++i) {
      queue.push();
    }
    idle.wake_one();
  }

  const std::size_t count;
  IdleWorkers<ModelPlatform> idle;
  ModelPlatform::Parker parkers[3];
  Queue queue;
};

/// Every task must have been taken, as there is a worker for each.
template <typename... Thread>
Outcome explore(std::size_t workers, Thread... threads) {
  Limits limits;
  limits.store_buffers = true;
  return Explorer::explore(
      [&] {
        auto world = std::make_shared<World>(workers);
        Scenario scenario;
        (scenario.threads.push_back([world, threads] { threads(*world); }), ...);
        scenario.check = [world]() -> std::string {
          return world->queue.waiting() == 0 ? "" : "a task waits and nobody comes";
        };
        return scenario;
      },
      limits);
}

class IdleModel : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!model::kCanExplore) GTEST_SKIP() << "fibers; the other builds run this";
  }
};

TEST_F(IdleModel, OneTaskWakesTheOneWorker) {
  const Outcome outcome = explore(
      1, [](World& world) { world.submit(1); }, [](World& world) { world.work(0); });
  EXPECT_EQ(outcome.failure, "");
  EXPECT_GE(outcome.runs, 10U);
}

TEST_F(IdleModel, OneTaskWakesOneOfTwo) {
  const Outcome outcome = explore(
      2, [](World& world) { world.submit(1); }, [](World& world) { world.work(0); },
      [](World& world) { world.work(1); });
  EXPECT_EQ(outcome.failure, "");
  EXPECT_GE(outcome.runs, 100U);
}

TEST_F(IdleModel, ABatchOfTwoWakesBothOneAfterTheOther) {
  const Outcome outcome = explore(
      2, [](World& world) { world.submit(2); }, [](World& world) { world.work(0); },
      [](World& world) { world.work(1); });
  EXPECT_EQ(outcome.failure, "");
  EXPECT_GE(outcome.runs, 100U);
}

TEST_F(IdleModel, AWorkerThatGaveUpWaitingIsNotCounted) {
  // The second worker's wait ends by itself at any moment; it retires then.
  const Outcome outcome = explore(
      2, [](World& world) { world.submit(1); }, [](World& world) { world.work(0); },
      [](World& world) {
        const auto has_work = [&world] { return world.queue.has_work(); };
        if (world.idle.park(world.parkers[1], false, has_work, Duration(1))) {
          if (world.queue.take()) {
            world.idle.end_search();
            return;
          }
          world.work(1);
        }
      });
  EXPECT_EQ(outcome.failure, "");
  EXPECT_GE(outcome.runs, 100U);
}

}  // namespace
}  // namespace weir::schedule
