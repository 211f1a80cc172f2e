// SPDX-License-Identifier: Apache-2.0
//
// What an engine does for those who leave, are late, or do not read, with the shipped model.
#include "agent/model/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "tests/fixtures/fake_clock.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Reads only when told to, and passes on what it hears.
class SlowListener final : public Listener {
 public:
  explicit SlowListener(std::shared_ptr<RecordingListener> heard) : heard_(std::move(heard)) {}
  void on_text(std::string_view text) override { heard_->on_text(text); }
  void on_complete(const Completion& completion) override { heard_->on_complete(completion); }
  void on_error(const Error& error) override { heard_->on_error(error); }
  bool wants_more() const override {
    ++asked;
    return reads;
  }
  std::atomic<bool> reads{false};
  mutable std::atomic<int> asked{0};

 private:
  const std::shared_ptr<RecordingListener> heard_;
};

std::shared_ptr<SlowListener> make_slow(Call& call) {
  auto slow = std::make_shared<SlowListener>(call.heard);
  call.request->listener = slow;
  return slow;
}

struct EngineTest : testing::Test {
  void make(const ModelOptions& options) {
    engine = std::make_unique<Engine>(options, clock, timers, workers());
  }
  /// False after 60 s.
  template <typename Condition>
  bool eventually(Condition&& condition) {
    const TimePoint give_up = clock.now() + seconds(60);
    while (!condition()) {
      if (clock.now() > give_up) return false;
      std::this_thread::sleep_for(milliseconds(1));  // what it waits for tells nobody
    }
    return true;
  }
  bool idle() { return engine->wait_idle(clock.now() + seconds(60)); }

  const SteadyClock clock;
  schedule::TimerThread timers{clock};
  std::unique_ptr<Engine> engine;
};

TEST_F(EngineTest, WaitingOnesLeaveWhileTheEngineIsInsideAStep) {
  make(shipped(1));
  Gate gate;
  const Call blocker = greedy_call("Once upon a time", 5, [&] { gate.pass(); });
  ASSERT_FALSE(engine->submit(blocker.request));
  ASSERT_TRUE(gate.wait_reached());
  const Call cancelled = greedy_call("One windy day", 5);
  const Call late = greedy_call("One windy day", 5);
  late.request->deadline = clock.now() + milliseconds(30);
  ASSERT_FALSE(engine->submit(cancelled.request));
  ASSERT_FALSE(engine->submit(late.request));
  cancelled.request->cancel();
  EXPECT_EQ(cancelled.heard->ends(), 1);
  ASSERT_TRUE(late.heard->wait_end());
  EXPECT_GE(clock.now(), *late.request->deadline);
  EXPECT_EQ(late.heard->error()->code, Code::kResourceExhausted);
  EXPECT_EQ(engine->info().expired, 1U);
  EXPECT_EQ(engine->info().queued, 0U);
  EXPECT_EQ(blocker.heard->ends(), 0);
  gate.open();
  ASSERT_TRUE(idle());
  EXPECT_TRUE(blocker.heard->completion());
}

TEST_F(EngineTest, RequestMayBeCancelledWhenTheEngineIsGone) {
  make(shipped(1));
  const Call call = greedy_call("Once upon a time", 400);
  ASSERT_FALSE(engine->submit(call.request));
  engine.reset();
  EXPECT_EQ(call.heard->ends(), 1);
  call.request->cancel();
  EXPECT_EQ(call.heard->ends(), 1);
}

TEST_F(EngineTest, FiveHundredRandomCancelsFreeEverything) {
  make(shipped(4));
  std::mt19937 random(7);
  auto reserved = std::make_shared<int>(0);
  std::vector<Call> calls;
  std::atomic<std::size_t> submitted{0};
  std::string long_prompt;
  for (int i = 0; i < 60; ++i) long_prompt += "Once upon a time. ";
  constexpr std::size_t kCalls = 500;
  for (std::size_t i = 0; i < kCalls; ++i) {
    calls.push_back(greedy_call(i % 3 == 0 ? long_prompt : "Once upon a time", 400));
    calls.back().request->reservation = reserved;
  }
  // One cancels, in another order and whatever they do just now, each of those that are there.
  std::jthread canceller([&] {
    std::mt19937 choice(8);
    std::vector<std::size_t> left(kCalls);
    for (std::size_t i = 0; i < kCalls; ++i) left[i] = i;
    while (!left.empty()) {
      const std::size_t place = choice() % left.size();
      if (left[place] >= submitted) {
        std::this_thread::yield();
        continue;
      }
      calls[left[place]].request->cancel();
      left[place] = left.back();
      left.pop_back();
    }
  });
  std::size_t accepted = 0;
  for (const Call& call : calls) {
    // No more than the queue takes; the canceller makes room.
    ASSERT_TRUE(eventually([&] { return engine->info().queued < 200; }));
    accepted += engine->submit(call.request) ? 0U : 1U;
    ++submitted;
  }
  canceller.join();
  ASSERT_TRUE(idle());
  const ModelInfo info = engine->info();
  EXPECT_EQ(accepted, kCalls);
  EXPECT_EQ(info.queued, 0U);
  EXPECT_EQ(info.running, 0U);
  EXPECT_EQ(info.cancelled + info.completed, kCalls);
  EXPECT_GT(info.cancelled, kCalls / 2);
  for (const Call& call : calls) {
    EXPECT_EQ(call.heard->ends(), 1);
    EXPECT_EQ(call.heard->late_events(), 0);
  }
  calls.clear();
  // The engine's own references go when its step is over.
  EXPECT_TRUE(eventually([&] { return reserved.use_count() == 1; }));
  // The sequences are clean.
  const Call after = greedy_call("Once upon a time", 400);
  ASSERT_FALSE(engine->submit(after.request));
  ASSERT_TRUE(after.heard->wait_end());
  EXPECT_EQ(after.heard->completion()->reason, FinishReason::kStop);
}

TEST_F(EngineTest, SlowReaderRestsAndTheOthersGoOn) {
  make(shipped(2));
  const Call alone = greedy_call("Once upon a time", 60);
  ASSERT_FALSE(engine->submit(alone.request));
  ASSERT_TRUE(idle());

  Call slow = greedy_call("Once upon a time", 60);
  const auto reader = make_slow(slow);
  ASSERT_FALSE(engine->submit(slow.request));
  ASSERT_TRUE(slow.heard->wait_pieces(1));
  ASSERT_TRUE(eventually([&] { return engine->info().resting == 1; }));
  const std::string so_far = slow.heard->text();
  // Others come, and end.
  for (int i = 0; i < 3; ++i) {
    const Call other = greedy_call("One windy day", 30);
    ASSERT_FALSE(engine->submit(other.request));
    ASSERT_TRUE(other.heard->wait_end());
    EXPECT_TRUE(other.heard->completion());
  }
  EXPECT_EQ(slow.heard->text(), so_far);
  EXPECT_EQ(slow.heard->ends(), 0);
  reader->reads = true;
  ASSERT_TRUE(slow.heard->wait_end());
  ASSERT_TRUE(slow.heard->completion());
  EXPECT_EQ(slow.heard->text(), alone.heard->text());
  ASSERT_TRUE(eventually([&] { return engine->info().resting == 0; }));
}

TEST_F(EngineTest, WhenAllRestTheEngineDoesNotSpin) {
  make(shipped(1));
  Call slow = greedy_call("Once upon a time", 60);
  const auto reader = make_slow(slow);
  ASSERT_FALSE(engine->submit(slow.request));
  ASSERT_TRUE(eventually([&] { return engine->info().resting == 1; }));
  const std::uint64_t steps = engine->info().decode_steps;
  const TimePoint from = clock.now();
  const int asked = reader->asked;
  ASSERT_TRUE(eventually([&] { return reader->asked >= asked + 20; }));
  // 5 ms between two looks.
  EXPECT_GE(clock.now() - from, milliseconds(19 * 5));
  EXPECT_EQ(engine->info().decode_steps, steps);
  reader->reads = true;
  ASSERT_TRUE(slow.heard->wait_end());
}

TEST_F(EngineTest, RestingOnesLeaveWhenCancelledOrLate) {
  make(shipped(2));
  Call gone = greedy_call("Once upon a time", 60);
  Call late = greedy_call("Once upon a time", 60);
  const auto first = make_slow(gone);
  const auto second = make_slow(late);
  late.request->deadline = clock.now() + seconds(2);
  ASSERT_FALSE(engine->submit(gone.request));
  ASSERT_FALSE(engine->submit(late.request));
  ASSERT_TRUE(eventually([&] { return engine->info().resting == 2; }));
  gone.request->cancel();
  ASSERT_TRUE(gone.heard->wait_end());
  EXPECT_EQ(gone.heard->error()->code, Code::kCancelled);
  ASSERT_TRUE(late.heard->wait_end());
  EXPECT_EQ(late.heard->error()->code, Code::kResourceExhausted);
  ASSERT_TRUE(idle());
  EXPECT_EQ(engine->info().running, 0U);
}

// The one who stays would never end if each of those who come and leave stopped a step of its
// prompt: the time that was lost is made good first.
TEST_F(EngineTest, WhoSendsAndCancelsDoesNotKeepTheOthersFromGoingOn) {
  ModelOptions options = shipped(4);
  options.context_tokens = 4096;
  make(options);
  std::string prompt;
  for (int i = 0; i < 500; ++i) prompt += "Once upon a time. ";
  const Call alone = greedy_call(prompt, 20);
  ASSERT_FALSE(engine->submit(alone.request));
  ASSERT_TRUE(idle());
  ASSERT_TRUE(alone.heard->completion());

  const Call stays = greedy_call(prompt, 20);
  ASSERT_FALSE(engine->submit(stays.request));
  int left = 0;
  while (stays.heard->ends() == 0) {
    const Call leaves = greedy_call(prompt, 20);
    ASSERT_FALSE(engine->submit(leaves.request));
    ASSERT_TRUE(eventually([&] { return engine->info().queued == 0; }));
    leaves.request->cancel();
    ASSERT_TRUE(leaves.heard->wait_end());
    EXPECT_EQ(leaves.heard->error()->code, Code::kCancelled);
    ++left;
  }
  EXPECT_GT(left, 1);
  ASSERT_TRUE(stays.heard->completion());
  EXPECT_EQ(stays.heard->text(), alone.heard->text());
  ASSERT_TRUE(idle());
  EXPECT_EQ(engine->info().running, 0U);
}

// Alone with its prompt: only its deadline can stop the step, and nobody is there to begin it
// again.
TEST_F(EngineTest, DeadlineOfTheOnlyOneStopsTheStep) {
  ModelOptions options = shipped(1);
  options.context_tokens = 4096;
  make(options);
  std::string prompt;
  for (int i = 0; i < 500; ++i) prompt += "Once upon a time. ";
  std::mt19937 random(4);
  for (int round = 0; round < 50 && engine->info().decode_aborts == 0; ++round) {
    const Call late = greedy_call(prompt, 20);
    late.request->deadline = clock.now() + milliseconds(10 + random() % 20);
    if (engine->submit(late.request)) continue;  // it has learned that such a deadline is hopeless
    ASSERT_TRUE(late.heard->wait_end());
    ASSERT_TRUE(late.heard->error());
    EXPECT_EQ(late.heard->error()->code, Code::kResourceExhausted);
  }
  ASSERT_TRUE(idle());
  EXPECT_GT(engine->info().decode_aborts, 0U);
  EXPECT_EQ(engine->info().running, 0U);
}

TEST_F(EngineTest, PredictsTheWaitOnceSomethingIsMeasured) {
  make(shipped(1));
  EXPECT_EQ(engine->predicted_wait(4), std::nullopt);
  const Call first = greedy_call("Once upon a time", 20);
  ASSERT_FALSE(engine->submit(first.request));
  ASSERT_TRUE(idle());
  EXPECT_EQ(engine->predicted_wait(4), Duration::zero());
  Gate gate;
  const Call blocker = greedy_call("Once upon a time", 20, [&] { gate.pass(); });
  const Call waiting = greedy_call("Once upon a time", 20);
  ASSERT_FALSE(engine->submit(blocker.request));
  ASSERT_TRUE(gate.wait_reached());
  ASSERT_FALSE(engine->submit(waiting.request));
  EXPECT_GT(engine->predicted_wait(5), Duration::zero());
  // With a deadline it would go before the one that waits.
  EXPECT_EQ(engine->predicted_wait(4), Duration::zero());
  gate.open();
  ASSERT_TRUE(idle());
}

}  // namespace
}  // namespace weir::model
