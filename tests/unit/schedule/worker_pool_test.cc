// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/worker_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <latch>
#include <memory>
#include <numeric>
#include <semaphore>
#include <thread>
#include <utility>
#include <vector>

#include "tests/fixtures/address_space_limit.h"

namespace weir::schedule {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Submitted = WorkerPool::Submitted;

/// Only a failing test waits this long.
constexpr seconds kPatience{20};

WorkerPool::Options workers(std::uint32_t count) {
  WorkerPool::Options options;
  options.name = "test";
  options.min_workers = options.max_workers = count;
  return options;
}

std::unique_ptr<WorkerPool> make(const WorkerPool::Options& options) {
  auto pool = WorkerPool::create(options);
  EXPECT_TRUE(pool) << pool.error().message;
  return std::move(*pool);
}

std::uint64_t executed(const WorkerPool& pool) {
  const WorkerPoolReading reading = pool.read();
  return std::accumulate(
      reading.workers.begin(), reading.workers.end(), std::uint64_t{0},
      [](std::uint64_t sum, const WorkerReading& worker) { return sum + worker.executed; });
}

bool eventually(const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

TEST(WorkerPool, SaysWhichOptionIsWrong) {
  auto none = WorkerPool::create(workers(0));
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().message, "max_workers is 0, not 1..256");
  WorkerPool::Options options = workers(2);
  options.min_workers = 3;
  auto reversed = WorkerPool::create(options);
  ASSERT_FALSE(reversed);
  EXPECT_EQ(reversed.error().message, "min_workers is 3, not 1..max_workers (2)");
}

TEST(WorkerPool, RunsEveryTaskFromOutsideOnce) {
  constexpr std::size_t kTasks = 100'000;
  std::vector<std::atomic<std::uint8_t>> ran(kTasks);
  auto pool = make(workers(3));
  for (std::size_t i = 0; i < kTasks; ++i) {
    ASSERT_EQ(pool->submit([&ran, i] { ran[i].fetch_add(1); }), Submitted::kAccepted);
  }
  pool->stop();
  for (const auto& times : ran) {
    ASSERT_EQ(times.load(), 1);
  }
  EXPECT_EQ(executed(*pool), kTasks);
  EXPECT_EQ(pool->read().injected, kTasks);
}

/// A tree of tasks: 2^18 of them, most from rings that overflow or are robbed.
struct Tree {
  WorkerPool& pool;
  std::atomic<std::uint64_t> leaves{0};
  void grow(int depth) {
    if (depth == 0) {
      leaves.fetch_add(1);
      return;
    }
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(pool.submit([this, depth] { grow(depth - 1); }), Submitted::kAccepted);
    }
  }
};

TEST(WorkerPool, StopRunsAlsoWhatAcceptedTasksSubmit) {
  auto pool = make(workers(3));
  Tree tree{*pool};
  ASSERT_EQ(pool->submit([&tree] { tree.grow(17); }), Submitted::kAccepted);
  pool->stop();
  EXPECT_EQ(tree.leaves.load(), 1U << 17);
  EXPECT_EQ(executed(*pool), (1U << 18) - 1);
}

TEST(WorkerPool, RefusesAfterStopAndLeavesTheTaskWithTheCaller) {
  auto pool = make(workers(1));
  pool->stop();
  bool ran = false;
  Task task([&ran] { ran = true; });
  EXPECT_EQ(pool->submit(std::move(task)), Submitted::kStopped);
  ASSERT_TRUE(task);
  std::move(task)();
  EXPECT_TRUE(ran);
  EXPECT_EQ(pool->read().refused_stopped, 1U);
}

TEST(WorkerPool, RefusesABatchThatDoesNotFitAsAWhole) {
  WorkerPool::Options options = workers(1);
  options.max_queued = 10;
  auto pool = make(options);
  std::latch started(1);
  std::latch go_on(1);
  ASSERT_EQ(pool->submit([&] {
    started.count_down();
    go_on.wait();
  }),
            Submitted::kAccepted);
  started.wait();
  std::atomic<int> ran{0};
  const auto batch = [&](int count) {
    std::vector<Task> tasks;
    for (int i = 0; i < count; ++i) {
      tasks.emplace_back([&ran] { ran.fetch_add(1); });
    }
    return pool->submit(std::span<Task>(tasks));
  };
  EXPECT_EQ(batch(11), Submitted::kFull);
  EXPECT_EQ(batch(10), Submitted::kAccepted);
  EXPECT_EQ(batch(1), Submitted::kFull);
  EXPECT_EQ(pool->read().queued, 10U);
  EXPECT_EQ(pool->read().refused_full, 12U);
  go_on.count_down();
  pool->stop();
  EXPECT_EQ(ran.load(), 10);
}

TEST(WorkerPool, HoldsHalfAMillionWaitingTasks) {
  constexpr std::size_t kTasks = 500'000;
  auto pool = make(workers(1));
  std::latch started(1);
  std::latch go_on(1);
  ASSERT_EQ(pool->submit([&] {
    started.count_down();
    go_on.wait();
  }),
            Submitted::kAccepted);
  started.wait();
  std::uint64_t ran = 0;  // one worker: in turn
  for (std::size_t i = 0; i < kTasks; ++i) {
    ASSERT_EQ(pool->submit([&ran] { ++ran; }), Submitted::kAccepted);
  }
  EXPECT_EQ(pool->read().queued, kTasks);
  go_on.count_down();
  pool->stop();
  EXPECT_EQ(ran, kTasks);
}

TEST(WorkerPool, AChainInTheSlotDoesNotStarveTheRing) {
  auto pool = make(workers(1));
  struct Chain {
    WorkerPool& pool;
    int links = 0;
    int links_until_ring = 0;
    std::binary_semaphore over{0};
    void link() {
      if (links_until_ring > 0 || links == 1000) {
        over.release();
        return;
      }
      ++links;
      EXPECT_EQ(pool.submit([this] { link(); }), Submitted::kAccepted);
    }
  } chain{*pool};
  ASSERT_EQ(pool->submit([&chain, &pool = *pool] {
    // The second displaces the first from the slot into the ring.
    EXPECT_EQ(pool.submit([&chain] { chain.links_until_ring = chain.links; }),
              Submitted::kAccepted);
    EXPECT_EQ(pool.submit([&chain] { chain.link(); }), Submitted::kAccepted);
  }),
            Submitted::kAccepted);
  chain.over.acquire();
  EXPECT_EQ(chain.links_until_ring, 8);
  pool->stop();
}

TEST(WorkerPool, AChainInTheSlotDoesNotStarveTheSharedQueue) {
  auto pool = make(workers(1));
  std::atomic<bool> from_outside{false};
  std::atomic<std::uint64_t> links{0};
  struct Chain {
    WorkerPool& pool;
    std::atomic<bool>& over;
    std::atomic<std::uint64_t>& links;
    void link() {
      links.fetch_add(1);
      if (!over) {
        EXPECT_EQ(pool.submit([this] { link(); }), Submitted::kAccepted);
      }
    }
  } chain{*pool, from_outside, links};
  ASSERT_EQ(pool->submit([&chain] { chain.link(); }), Submitted::kAccepted);
  ASSERT_TRUE(eventually([&] { return links > 100; }));
  // The chain ends only when this has run, beside it, on the one worker.
  ASSERT_EQ(pool->submit([&from_outside] { from_outside = true; }), Submitted::kAccepted);
  EXPECT_TRUE(eventually([&] { return from_outside.load(); }));
  pool->stop();
}

TEST(WorkerPool, ATaskInTheSlotOfABusyWorkerIsTakenByAnother) {
  auto pool = make(workers(2));
  std::binary_semaphore inner{0};
  std::binary_semaphore outer{0};
  std::thread::id outer_ran;
  std::thread::id inner_ran;
  ASSERT_EQ(pool->submit([&] {
    outer_ran = std::this_thread::get_id();
    EXPECT_EQ(pool->submit([&] {
      inner_ran = std::this_thread::get_id();
      inner.release();
    }),
              Submitted::kAccepted);
    // Its own worker cannot run it meanwhile.
    EXPECT_TRUE(inner.try_acquire_for(kPatience));
    outer.release();
  }),
            Submitted::kAccepted);
  outer.acquire();
  EXPECT_NE(inner_ran, outer_ran);
  pool->stop();
  const WorkerPoolReading reading = pool->read();
  // More than one, when the outer task's first worker was held up before it could begin.
  EXPECT_GE(reading.workers[0].steals + reading.workers[1].steals, 1U);
}

/// Each round ends with every worker parked or about to park: one lost wake-up and the next never
/// ends.
TEST(WorkerPool, WakesAWorkerForEveryTaskOverManyParks) {
  constexpr int kRounds = 20'000;
  auto pool = make(workers(3));
  std::binary_semaphore done{0};
  for (int round = 0; round < kRounds; ++round) {
    // Up to and past the time that a worker searches before it parks.
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::nanoseconds(round * 7 % 60'000);
    while (std::chrono::steady_clock::now() < end) {
    }
    ASSERT_EQ(pool->submit([&done] { done.release(); }), Submitted::kAccepted);
    ASSERT_TRUE(done.try_acquire_for(kPatience)) << "round " << round;
  }
  pool->stop();
}

/// The same from inside: a task waits for what it has submitted, so another worker must come.
TEST(WorkerPool, WakesAnotherWorkerForWhatATaskSubmits) {
  constexpr int kRounds = 5'000;
  auto pool = make(workers(2));
  std::binary_semaphore inner{0};
  std::binary_semaphore outer{0};
  int lost = 0;
  for (int round = 0; round < kRounds && lost == 0; ++round) {
    ASSERT_EQ(pool->submit([&, round] {
      const auto end =
          std::chrono::steady_clock::now() + std::chrono::nanoseconds(round * 7 % 60'000);
      while (std::chrono::steady_clock::now() < end) {
      }
      EXPECT_EQ(pool->submit([&inner] { inner.release(); }), Submitted::kAccepted);
      lost += inner.try_acquire_for(kPatience) ? 0 : 1;
      outer.release();
    }),
              Submitted::kAccepted);
    outer.acquire();
  }
  EXPECT_EQ(lost, 0);
  pool->stop();
}

TEST(WorkerPool, StartsAnotherWorkerWhenTasksWaitAndEndsItWhenIdle) {
  WorkerPool::Options options = workers(1);
  options.max_workers = 3;
  options.grow_after = milliseconds(1);
  options.idle_timeout = milliseconds(1);
  // A round's latches outlive it: the blocked task may be slow to leave them.
  struct Blocked {
    std::latch started{1};
    std::latch go_on{1};
  };
  std::array<Blocked, 3> rounds;
  auto pool = make(options);
  for (std::size_t round = 0; round < rounds.size(); ++round) {
    auto& [started, go_on] = rounds[round];
    ASSERT_EQ(pool->submit([&started, &go_on] {
      started.count_down();
      go_on.wait();
    }),
              Submitted::kAccepted);
    started.wait();
    std::atomic<bool> ran{false};
    ASSERT_EQ(pool->submit([&ran] { ran = true; }), Submitted::kAccepted);
    // Growth is looked at with every task from outside.
    EXPECT_TRUE(eventually([&] {
      EXPECT_EQ(pool->submit([] {}), Submitted::kAccepted);
      return ran.load();
    }));
    EXPECT_GE(pool->read().grown, round + 1);
    go_on.count_down();
    EXPECT_TRUE(eventually([&] { return pool->read().live == 1; }));
  }
  EXPECT_EQ(pool->read().grown, pool->read().shrunk);
  pool->stop();
}

TEST(WorkerPool, SaysThatTheSystemHasNoMoreThreads) {
  if (!kLimitsAddressSpace) GTEST_SKIP() << "the sanitizer needs the address space";
  const AddressSpaceLimit limit(std::size_t{100} << 20);
  const auto pool = WorkerPool::create(workers(64));
  ASSERT_FALSE(pool);
  EXPECT_EQ(pool.error().code, Code::kResourceExhausted);
}

TEST(WorkerPool, GoesOnWithTheWorkersItHasWhenTheSystemHasNoMoreThreads) {
  if (!kLimitsAddressSpace) GTEST_SKIP() << "the sanitizer needs the address space";
  WorkerPool::Options options = workers(1);
  options.max_workers = 64;
  options.grow_after = Duration(0);
  auto pool = make(options);
  const AddressSpaceLimit limit(std::size_t{4} << 20);
  constexpr int kTasks = 2000;
  std::latch go_on{1};
  std::atomic<int> ran{0};
  for (int i = 0; i < kTasks; ++i) {
    // Whoever works is blocked: each task but a few asks for one more.
    ASSERT_EQ(pool->submit([&] {
      go_on.wait();
      ++ran;
    }),
              Submitted::kAccepted);
    std::this_thread::yield();
  }
  EXPECT_LT(pool->read().live, 64U);
  go_on.count_down();
  pool->stop();
  EXPECT_EQ(ran, kTasks);
}

TEST(WorkerPool, MayBeStoppedWhileOthersSubmit) {
  for (int round = 0; round < 50; ++round) {
    auto pool = make(workers(2));
    std::atomic<std::uint64_t> accepted{0};
    std::atomic<std::uint64_t> ran{0};
    std::vector<std::jthread> submitters;
    for (int i = 0; i < 2; ++i) {
      submitters.emplace_back([&] {
        while (pool->submit([&ran] { ran.fetch_add(1); }) == Submitted::kAccepted) {
          accepted.fetch_add(1);
        }
      });
    }
    EXPECT_TRUE(eventually([&] { return ran > 100; }));
    pool->stop();
    submitters.clear();
    EXPECT_EQ(ran.load(), accepted.load());
  }
}

}  // namespace
}  // namespace weir::schedule
