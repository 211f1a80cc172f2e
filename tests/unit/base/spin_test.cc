// SPDX-License-Identifier: Apache-2.0
#include "agent/base/spin.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace weir {
namespace {

TEST(LockSpinning, HoldsTheMutex) {
  std::mutex mutex;
  {
    const auto lock = lock_spinning(mutex);
    EXPECT_TRUE(lock.owns_lock());
    std::thread([&mutex] { EXPECT_FALSE(mutex.try_lock()); }).join();
  }
  EXPECT_TRUE(mutex.try_lock());
  mutex.unlock();
}

TEST(LockSpinning, LetsOneInAtATime) {
  constexpr int kThreads = 4;
  constexpr int kTurns = 20'000;
  std::mutex mutex;
  int turns = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        for (int turn = 0; turn < kTurns; ++turn) {
          const auto lock = lock_spinning(mutex);
          ++turns;
        }
      });
    }
  }
  EXPECT_EQ(turns, kThreads * kTurns);
}

}  // namespace
}  // namespace weir
