// SPDX-License-Identifier: Apache-2.0
//
// The queue of a model without a model: the test takes and settles what an engine would.
#include "agent/model/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <random>
#include <thread>

#include "agent/schedule/worker_pool.h"
#include "tests/unit/model/request_queue_fixture.h"

namespace weir::model {
namespace {

using schedule::TimerThread;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

TEST_F(RequestQueueTest, CancelledOneLeavesBeforeCancelReturns) {
  make();
  const Call call = call_of(5);
  ASSERT_FALSE(queue->submit(call.request));
  EXPECT_EQ(read(*queue).queued, 1U);
  call.request->cancel();
  ASSERT_TRUE(call.heard->error());
  EXPECT_EQ(call.heard->error()->code, Code::kCancelled);
  EXPECT_EQ(read(*queue).queued, 0U);
  EXPECT_EQ(read(*queue).cancelled, 1U);
  EXPECT_TRUE(queue->wait_idle(TimePoint{}));
  EXPECT_TRUE(queue->take(1).empty());
  call.request->cancel();
  EXPECT_EQ(call.heard->ends(), 1);
}

TEST_F(RequestQueueTest, RequestMayBeCancelledWhenTheQueueIsGone) {
  make();
  const Call call = call_of(5);
  ASSERT_FALSE(queue->submit(call.request));
  queue->fail_waiting(make_error(Code::kUnavailable, "the agent is stopping"));
  queue->close();
  const std::weak_ptr<RequestQueue> weak = queue;
  queue.reset();
  EXPECT_TRUE(weak.expired());
  call.request->cancel();
  EXPECT_EQ(call.heard->ends(), 1);
  EXPECT_EQ(call.heard->error()->code, Code::kUnavailable);
}

TEST_F(RequestQueueTest, CancelWhileItIsWorkedOnWakesTheExecutor) {
  make();
  const Call call = call_of(5);
  ASSERT_FALSE(queue->submit(call.request));
  auto taken = queue->take(1);
  auto rested = std::async(std::launch::async, [&] { queue->rest(std::chrono::hours(1), false); });
  call.request->cancel();
  rested.get();
  EXPECT_EQ(call.heard->ends(), 0);  // it is the executor's to end
  queue->settle({{std::move(taken[0]), *reason_to_leave(*call.request, clock.now()), 3}});
  EXPECT_EQ(call.heard->error()->code, Code::kCancelled);
  EXPECT_TRUE(queue->wait_idle(TimePoint{}));
}

TEST_F(RequestQueueTest, ExpiresAtItsInstantThoughTheExecutorIsBusy) {
  make();
  const Call late = call_of(5);
  const Call patient = call_of(5);
  late.request->deadline = clock.now() + seconds(10);
  patient.request->deadline = clock.now() + seconds(11);
  ASSERT_FALSE(queue->submit(patient.request));
  ASSERT_FALSE(queue->submit(late.request));  // the timer is set anew, to an earlier time
  clock.advance(seconds(10));
  timers.wake();
  ASSERT_TRUE(late.heard->wait_end());
  EXPECT_EQ(late.heard->error()->code, Code::kResourceExhausted);
  EXPECT_THAT(late.heard->error()->message, HasSubstr("the deadline passed 0 ms ago"));
  EXPECT_EQ(patient.heard->ends(), 0);
  EXPECT_EQ(read(*queue).expired, 1U);
  EXPECT_EQ(read(*queue).failed, 0U);
  clock.advance(seconds(1));
  timers.wake();
  ASSERT_TRUE(patient.heard->wait_end());
}

TEST_F(RequestQueueTest, ExpiredOneIsNotTaken) {
  make();
  const Call late = call_of(5);
  late.request->deadline = clock.now() + seconds(10);
  const Call other = call_of(5);
  ASSERT_FALSE(queue->submit(late.request));
  ASSERT_FALSE(queue->submit(other.request));
  clock.advance(seconds(10));  // and the timer was not quick enough
  auto taken = queue->take(2);
  ASSERT_EQ(taken.size(), 1U);
  EXPECT_EQ(taken[0].request, other.request);
  EXPECT_TRUE(late.heard->error());
  queue->settle({completed(std::move(taken[0]), 5)});
}

TEST_F(RequestQueueTest, TakesNoMoreThanAskedFor) {
  make();
  std::vector<Call> calls;
  for (int i = 0; i < 5; ++i) {
    calls.push_back(call_of(5));
    ASSERT_FALSE(queue->submit(calls.back().request));
  }
  auto two = queue->take(2);
  EXPECT_EQ(two.size(), 2U);
  EXPECT_EQ(read(*queue).queued, 3U);
  std::vector<Outcome> outcomes;
  for (Taken& one : two) outcomes.push_back(completed(std::move(one), 5));
  queue->settle(outcomes);
}

TEST_F(RequestQueueTest, PredictsTheLeastWaitOfALevel) {
  make();
  EXPECT_EQ(queue->predicted_wait(4), std::nullopt);
  measure();
  EXPECT_EQ(queue->predicted_wait(4), Duration::zero());
  std::vector<Call> calls = {call_of(300, 4), call_of(500, 2), call_of(7000, 6)};
  for (const Call& call : calls) ASSERT_FALSE(queue->submit(call.request));
  const auto wait_s = [&](std::int32_t level) {
    return std::chrono::duration<double>(*queue->predicted_wait(level)).count();
  };
  // A second for each hundred tokens of the levels above.
  EXPECT_EQ(wait_s(0), 0);
  EXPECT_EQ(wait_s(2), 0);
  EXPECT_NEAR(wait_s(4), 5.0, 0.5);
  EXPECT_NEAR(wait_s(7), 78.0, 5);
}

// Admission refuses by the predicted wait what then never comes to submit().
TEST_F(RequestQueueTest, TakesNothingThatIsPredictedToBeLate) {
  std::mt19937 random(5);
  for (int round = 0; round < 20; ++round) {
    make();
    measure();
    int taken = 0;
    for (int i = 0; i < 60; ++i) {
      const auto level = static_cast<std::int32_t>(random() % schedule::kLevels);
      const Call call = call_of(10 + static_cast<std::uint32_t>(random() % 500), level);
      call.request->tenant = std::string(1, static_cast<char>('a' + random() % 3));
      if (random() % 2 == 0) {
        call.request->deadline = clock.now() + milliseconds(100 + random() % 100'000);
      }
      const Duration wait = queue->predicted_wait(level).value_or(Duration::zero());
      if (queue->submit(call.request) || !call.request->deadline) continue;
      EXPECT_LE(wait, *call.request->deadline - clock.now()) << "round " << round << ", " << i;
      ++taken;
    }
    EXPECT_GT(taken, 0);
    queue->fail_waiting(make_error(Code::kUnavailable, "over"));
  }
}

TEST_F(RequestQueueTest, HopelessDeadlineIsRefusedForGood) {
  make();
  measure();
  const auto dated = [&](std::uint32_t tokens, std::int32_t level, Duration left) {
    Call call = call_of(tokens, level);
    call.request->deadline = clock.now() + left;
    return call;
  };
  const Call running = call_of(100);
  ASSERT_FALSE(queue->submit(running.request));
  auto taken = queue->take(1);
  // Ten seconds of work with the same level: a deadline goes before it.
  const Call undated = call_of(1000);
  ASSERT_FALSE(queue->submit(undated.request));
  EXPECT_FALSE(queue->submit(dated(100, 4, seconds(5)).request));
  // Ten seconds of a higher level: no hope for one that has five, but for one that has fifteen.
  const Call above = call_of(1000, 1);
  ASSERT_FALSE(queue->submit(above.request));
  const Call hopeless = dated(100, 4, seconds(5));
  const auto refusal = queue->submit(hopeless.request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kDeadline);
  EXPECT_EQ(refusal->retry_after, std::nullopt);
  EXPECT_THAT(refusal->message, HasSubstr("the deadline is in 5000 ms"));
  EXPECT_EQ(refused(*queue, RefusalReason::kDeadline), 1U);
  EXPECT_EQ(hopeless.heard->ends(), 0);
  EXPECT_FALSE(queue->submit(dated(100, 4, seconds(15)).request));
  // Where there is no time for the work itself, the place in the queue does not matter.
  EXPECT_FALSE(queue->submit(dated(100, 0, seconds(5)).request));
  EXPECT_TRUE(queue->submit(dated(100, 0, milliseconds(200)).request));
  queue->settle({completed(std::move(taken[0]), 100)});
}

TEST_F(RequestQueueTest, IdleExecutorTriesWhateverTheEstimate) {
  make();
  measure();
  Call tried = call_of(100);
  tried.request->deadline = clock.now() + milliseconds(200);
  EXPECT_FALSE(queue->submit(tried.request));
}

TEST_F(RequestQueueTest, RetryAfterIsWhenTheLevelHasDrained) {
  schedule::QueueOptions options;
  options.all = {3, 1000};
  make(options);
  const Call huge = call_of(1001);
  const auto never = queue->submit(huge.request);
  ASSERT_TRUE(never);
  EXPECT_EQ(never->reason, RefusalReason::kQueueFull);
  EXPECT_EQ(never->retry_after, std::nullopt);
  measure();
  std::vector<Call> calls;
  for (int i = 0; i < 3; ++i) {
    calls.push_back(call_of(300));
    ASSERT_FALSE(queue->submit(calls.back().request));
  }
  const auto refusal = queue->submit(call_of(100).request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kQueueFull);
  EXPECT_THAT(refusal->message, HasSubstr("bound: requests"));
  EXPECT_NEAR(static_cast<double>(refusal->retry_after->count()), 10, 1);
  calls[0].request->cancel();
  EXPECT_THAT(queue->submit(call_of(401).request)->message, HasSubstr("bound: tokens"));
  EXPECT_EQ(refused(*queue, RefusalReason::kQueueFull), 3U);
}

TEST_F(RequestQueueTest, TenantsAreChargedWithWhatTheyWereServed) {
  make();
  std::vector<Call> calls;
  for (int i = 0; i < 100; ++i) {
    calls.push_back(call_of(100, 4, i % 2 == 0 ? "brief" : "full"));
    ASSERT_FALSE(queue->submit(calls.back().request));
  }
  int brief = 0;
  for (int i = 0; i < 50; ++i) {
    auto taken = queue->take(1);
    ASSERT_EQ(taken.size(), 1U);
    const bool is_brief = taken[0].request->tenant == "brief";
    brief += is_brief ? 1 : 0;
    queue->settle({completed(std::move(taken[0]), is_brief ? 25 : 100)});
  }
  EXPECT_EQ(brief, 40);
}

TEST_F(RequestQueueTest, CountsEachEndByItsName) {
  make({}, 8);
  std::vector<Call> calls;
  for (int i = 0; i < 4; ++i) {
    calls.push_back(call_of(10));
    if (i == 3) calls.back().request->deadline = clock.now() + seconds(1);
    ASSERT_FALSE(queue->submit(calls.back().request));
  }
  clock.advance(milliseconds(300));
  auto taken = queue->take(4);
  ASSERT_EQ(taken.size(), 4U);
  EXPECT_EQ(taken[0].request, calls[3].request);  // the one with a deadline
  clock.advance(seconds(1));
  const auto with = [](Taken& one, Code code) {
    return Outcome{std::move(one), make_error(code, "why"), 0};
  };
  queue->settle({with(taken[0], Code::kResourceExhausted), completed(std::move(taken[1]), 10),
                 with(taken[2], Code::kCancelled), with(taken[3], Code::kResourceExhausted)});
  const ModelInfo info = read(*queue);
  EXPECT_EQ(info.accepted, 4U);
  EXPECT_EQ(info.expired, 1U);
  EXPECT_EQ(info.completed, 1U);
  EXPECT_EQ(info.cancelled, 1U);
  EXPECT_EQ(info.failed, 1U);
  EXPECT_EQ(info.queue_wait.sum, 4 * milliseconds(300));
}

TEST_F(RequestQueueTest, SubmitAndPokeEndAWait) {
  make();
  auto waited = std::async(std::launch::async, [&] { queue->wait_for_work(); });
  const Call call = call_of(5);
  ASSERT_FALSE(queue->submit(call.request));
  waited.get();
  call.request->cancel();
  queue->poke();
  queue->wait_for_work();  // a poke that came before
}

TEST_F(RequestQueueTest, RefusesWhileLoadingFailsAndWhileDraining) {
  make();
  queue->refuse_until(clock.now() + milliseconds(1500), "the model could not be loaded");
  const auto refusal = queue->submit(call_of(5).request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kLoading);
  EXPECT_EQ(refusal->retry_after, seconds(2));
  clock.advance(milliseconds(1500));
  EXPECT_FALSE(queue->submit(call_of(5).request));
  queue->begin_drain();
  EXPECT_EQ(queue->submit(call_of(5).request)->reason, RefusalReason::kDraining);
  EXPECT_EQ(refused(*queue, RefusalReason::kDraining), 1U);
  EXPECT_EQ(refused(*queue, RefusalReason::kLoading), 1U);
}

// Submitted, prepared, taken, cancelled and expired from everywhere at once: each hears one end.
TEST(RequestQueue, EveryRequestEndsOnceWhoeverIsFirst) {
  constexpr unsigned kThreads = 3;
  constexpr unsigned kEach = 400;
  const SteadyClock clock;
  TimerThread timers(clock);
  schedule::QueueOptions options;
  options.ageing = milliseconds(2);
  const auto queue = RequestQueue::create(options, 4, clock, timers);
  const auto pool = *schedule::WorkerPool::create({.max_workers = 2});
  queue->prepare_with([&](RequestQueue::Ticket ticket, const GenerationRequest&) {
    (void)pool->submit([&queue, ticket] {
      if (const auto request = queue->waiting(ticket)) {
        queue->prepared(ticket, request->priority == 7
                                    ? Result<std::vector<std::int32_t>>(
                                          make_error(Code::kInvalidArgument, "unfit"))
                                    : std::vector<std::int32_t>{1});
      }
    });
  });
  std::vector<std::vector<Call>> calls(kThreads);
  std::atomic<std::uint64_t> accepted{0};
  std::atomic<bool> stopping{false};
  std::jthread executor([&] {
    while (!stopping) {
      if (!queue->has_work()) {
        queue->wait_for_work();
        continue;
      }
      auto taken = queue->take(4);
      std::vector<Outcome> outcomes;
      for (Taken& one : taken) {
        auto reason = reason_to_leave(*one.request, clock.now());
        outcomes.push_back(reason ? Outcome{std::move(one), std::move(*reason), 0}
                                  : completed(std::move(one), 5));
      }
      queue->settle(outcomes);
    }
  });
  {
    std::vector<std::jthread> clients;
    for (unsigned t = 0; t < kThreads; ++t) {
      clients.emplace_back([&, t] {
        std::mt19937 random(t);
        for (unsigned i = 0; i < kEach; ++i) {
          Call call =
              call_of(10, static_cast<std::int32_t>(random() % 8), std::to_string(random() % 5));
          if (random() % 2 == 0) {
            call.request->deadline = clock.now() + std::chrono::microseconds(random() % 2000);
          }
          calls[t].push_back(call);
          if (!queue->submit(call.request)) ++accepted;
          if (random() % 2 == 0) calls[t][random() % calls[t].size()].request->cancel();
          (void)queue->predicted_wait(static_cast<std::int32_t>(random() % 8));
        }
      });
    }
  }
  EXPECT_TRUE(queue->wait_idle(clock.now() + seconds(60)));
  stopping = true;
  queue->poke();
  executor.join();
  queue->close();
  std::uint64_t ended = 0;
  for (const auto& of_thread : calls) {
    for (const Call& call : of_thread) {
      EXPECT_LE(call.heard->ends(), 1);
      ended += call.heard->ends() > 0 ? 1U : 0U;
    }
  }
  const ModelInfo info = read(*queue);
  EXPECT_EQ(ended, accepted);
  EXPECT_EQ(info.accepted, accepted);
  EXPECT_EQ(info.completed + info.cancelled + info.expired + info.failed, accepted);
  EXPECT_EQ(info.queued, 0U);
  EXPECT_GT(info.completed, 0U);
  EXPECT_GT(info.cancelled, 0U);
}

}  // namespace
}  // namespace weir::model
