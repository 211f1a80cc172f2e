// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/timer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <latch>
#include <memory>
#include <random>
#include <vector>

#include "tests/fixtures/fake_clock.h"

namespace weir::schedule {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(TimerThread, CallsAtTheTimeOfTheClockInOrder) {
  FakeClock clock;
  std::vector<int> called;  // timer thread, until all_called
  std::promise<void> all_called;
  TimerThread timers(clock);
  timers.arm(clock.now() + hours(3), [&] { called.push_back(3), all_called.set_value(); });
  timers.arm(clock.now() + hours(1), [&] { called.push_back(1); });
  timers.arm(clock.now() + hours(2), [&] { called.push_back(2); });
  clock.advance(hours(3));
  timers.wake();
  ASSERT_EQ(all_called.get_future().wait_for(seconds(60)), std::future_status::ready);
  EXPECT_EQ(called, (std::vector<int>{1, 2, 3}));
}

TEST(TimerThread, DoesNotCallBeforeTheTime) {
  FakeClock clock;
  std::atomic<bool> early{false};
  TimerThread timers(clock);
  timers.arm(clock.now() + hours(2), [&] { early = true; });
  // One that is due shows that the thread has looked.
  std::promise<void> looked;
  clock.advance(hours(1));
  timers.arm(clock.now(), [&] { looked.set_value(); });
  ASSERT_EQ(looked.get_future().wait_for(seconds(60)), std::future_status::ready);
  EXPECT_FALSE(early);
}

TEST(TimerThread, WakesByItselfWhenRealTimePasses) {
  const SteadyClock clock;
  TimerThread timers(clock);
  std::promise<TimePoint> called;
  const TimePoint when = clock.now() + milliseconds(20);
  timers.arm(clock.now() + hours(1), [] {});
  timers.arm(when, [&] { called.set_value(clock.now()); });
  auto future = called.get_future();
  ASSERT_EQ(future.wait_for(seconds(60)), std::future_status::ready);
  EXPECT_GE(future.get(), when);
}

TEST(TimerThread, CancelledOnesAreNotCalled) {
  FakeClock clock;
  TimerThread timers(clock);
  std::atomic<bool> called{false};
  const auto timer = timers.arm(clock.now() + hours(1), [&] { called = true; });
  EXPECT_TRUE(timers.cancel(timer));
  EXPECT_FALSE(timers.cancel(timer));
  std::promise<void> looked;
  timers.arm(clock.now() + hours(2), [&] { looked.set_value(); });
  clock.advance(hours(2));
  timers.wake();
  ASSERT_EQ(looked.get_future().wait_for(seconds(60)), std::future_status::ready);
  EXPECT_FALSE(called);
}

TEST(TimerThread, CancelWaitsForAFunctionThatRuns) {
  const SteadyClock clock;
  TimerThread timers(clock);
  std::latch running(1);
  std::promise<void> go_on;
  std::atomic<bool> ended{false};
  const auto timer = timers.arm(clock.now(), [&, go = go_on.get_future().share()] {
    running.count_down();
    go.wait();
    ended = true;
  });
  running.wait();
  auto cancelled = std::async(std::launch::async, [&] {
    const bool prevented = timers.cancel(timer);
    EXPECT_TRUE(ended);
    return prevented;
  });
  go_on.set_value();
  EXPECT_FALSE(cancelled.get());
}

TEST(TimerThread, FunctionMayArmAndCancelItself) {
  const SteadyClock clock;
  TimerThread timers(clock);
  std::promise<bool> done;
  TimerThread::Timer self;
  std::latch armed(1);
  self = timers.arm(clock.now(), [&] {
    armed.wait();
    const bool prevented = timers.cancel(self);
    timers.arm(clock.now(), [&, prevented] { done.set_value(prevented); });
  });
  armed.count_down();
  auto future = done.get_future();
  ASSERT_EQ(future.wait_for(seconds(60)), std::future_status::ready);
  EXPECT_FALSE(future.get());
}

TEST(TimerThread, DropsWhatIsLeft) {
  const SteadyClock clock;
  auto owned = std::make_shared<int>(0);
  const std::weak_ptr<int> weak = owned;
  bool called = false;
  {
    TimerThread timers(clock);
    timers.arm(clock.now() + hours(1), [&called, keeps = std::move(owned)] { called = true; });
    EXPECT_FALSE(weak.expired());
  }
  EXPECT_TRUE(weak.expired());
  EXPECT_FALSE(called);
}

// Each is either called or cancelled, never both, whoever is first.
TEST(TimerThread, ManyThreadsArmAndCancel) {
  const SteadyClock clock;
  std::atomic<int> called{0};
  std::atomic<int> cancelled{0};
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  {
    TimerThread timers(clock);
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(t);
        for (int i = 0; i < kEach; ++i) {
          const auto timer =
              timers.arm(clock.now() + std::chrono::microseconds(random() % 50), [&] { ++called; });
          if (timers.cancel(timer)) ++cancelled;
        }
      });
    }
  }
  EXPECT_EQ(called + cancelled, kThreads * kEach);
}

}  // namespace
}  // namespace weir::schedule
