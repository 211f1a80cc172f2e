// SPDX-License-Identifier: Apache-2.0
//
// Several who take from one queue: who gets what, and who is woken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <map>
#include <thread>
#include <vector>

#include "agent/model/request_queue.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::hours;
using std::chrono::seconds;

Outcome completed(Taken taken) { return {std::move(taken), Completion{}, 10}; }

struct Takers : testing::Test {
  void make(std::size_t takers) {
    queue = RequestQueue::create({}, takers * 8, clock, timers, takers);
    queue->prepare_with([this](RequestQueue::Ticket ticket, const GenerationRequest&) {
      queue->prepared(ticket, std::vector<std::int32_t>{});
    });
  }
  ~Takers() override {
    settle_all();
    queue->fail_waiting(make_error(Code::kUnavailable, "the test is over"));
    queue->close();
  }
  void submit(int requests) {
    for (int i = 0; i < requests; ++i) {
      ASSERT_FALSE(queue->submit(greedy_call("", 10).request));
    }
  }
  /// How many this one gets, with room for `most`; it holds them.
  std::size_t take(std::size_t most, std::size_t taker) {
    auto taken = queue->take(most, taker);
    const std::size_t count = taken.size();
    for (Taken& one : taken) held[taker].push_back(std::move(one));
    return count;
  }
  void settle_one(std::size_t taker) {
    queue->settle({completed(std::move(held[taker].back()))}, taker);
    held[taker].pop_back();
  }
  void settle_all() {
    for (auto& [taker, requests] : held) {
      while (!requests.empty()) settle_one(taker);
    }
  }

  FakeClock clock;
  schedule::TimerThread timers{clock};
  std::shared_ptr<RequestQueue> queue;
  std::map<std::size_t, std::vector<Taken>> held;
};

TEST_F(Takers, ABurstIsDividedEvenly) {
  make(3);
  submit(8);
  EXPECT_EQ(take(8, 0), 3U);
  EXPECT_EQ(take(8, 1), 3U);
  EXPECT_EQ(take(8, 2), 2U);
}

TEST_F(Takers, OneAloneGetsAllThatItHasRoomFor) {
  make(1);
  submit(8);
  EXPECT_EQ(take(5, 0), 5U);
  EXPECT_EQ(take(5, 0), 3U);
}

TEST_F(Takers, WhoHoldsFewerGetsTheNextOne) {
  make(2);
  submit(6);
  ASSERT_EQ(take(8, 0), 3U);
  ASSERT_EQ(take(8, 1), 3U);
  settle_one(1);
  settle_one(1);
  submit(1);
  EXPECT_EQ(queue->most_urgent(0), std::nullopt);
  EXPECT_EQ(queue->most_urgent(1), schedule::kDefaultLevel);
  EXPECT_EQ(take(5, 0), 0U);
  EXPECT_EQ(take(7, 1), 1U);
}

TEST_F(Takers, WhoeverStoodBackOnceTakesWhatIsStillThere) {
  make(2);
  submit(6);
  ASSERT_EQ(take(8, 0), 3U);
  ASSERT_EQ(take(8, 1), 3U);
  settle_one(1);
  submit(2);
  settle_one(1);  // and is in a long step now
  EXPECT_EQ(take(5, 0), 0U);
  EXPECT_EQ(take(5, 0), 1U);
  EXPECT_EQ(take(5, 0), 0U);
  EXPECT_EQ(take(5, 0), 1U);
}

TEST_F(Takers, WhoHoldsNothingNeverStandsBack) {
  make(4);
  submit(1);
  EXPECT_EQ(take(8, 3), 1U);
  submit(1);
  EXPECT_EQ(take(8, 2), 1U);
}

TEST_F(Takers, ARequestWakesOneWhoWaitsAndTheNextAnotherOne) {
  make(3);
  std::atomic<int> awake{0};
  std::vector<std::future<void>> waiting;
  for (const std::size_t taker : {0U, 1U}) {
    waiting.push_back(std::async(std::launch::async, [&, taker] {
      queue->wait_for_work(taker);
      ++awake;
    }));
  }
  submit(2);  // taker 2 never comes
  for (auto& one : waiting) {
    ASSERT_EQ(one.wait_for(seconds(60)), std::future_status::ready);
  }
  EXPECT_EQ(awake, 2);
}

TEST_F(Takers, APokeReachesEachOnce) {
  make(3);
  std::vector<std::future<void>> waiting;
  for (std::size_t taker = 0; taker < 2; ++taker) {
    waiting.push_back(std::async(std::launch::async, [&, taker] { queue->wait_for_work(taker); }));
  }
  queue->poke();
  for (auto& one : waiting) {
    ASSERT_EQ(one.wait_for(seconds(60)), std::future_status::ready);
  }
  queue->rest(hours(1), false, 2);  // the poke came before
}

TEST_F(Takers, ACancelWakesThoseWhoHoldRequests) {
  make(2);
  const Call call = greedy_call("", 10);
  ASSERT_FALSE(queue->submit(call.request));
  ASSERT_EQ(take(1, 1), 1U);
  call.request->cancel();
  queue->rest(hours(1), false, 1);
}

TEST_F(Takers, RetiredAndIdleEndsEachWait) {
  make(3);
  submit(1);
  ASSERT_EQ(take(1, 2), 1U);
  queue->retire(/*if_idle=*/false);
  for (std::size_t taker = 0; taker < 3; ++taker) queue->wait_for_work(taker);
  EXPECT_FALSE(queue->idle());
  settle_one(2);
  EXPECT_TRUE(queue->idle());
  for (std::size_t taker = 0; taker < 3; ++taker) queue->wait_for_work(taker);
}

// What is measured while somebody works is a rate of all of them.
TEST_F(Takers, TheTimeIsBusyWhileAnyOfThemIs) {
  make(2);
  for (int i = 0; i < 40; ++i) {
    submit(2);
    ASSERT_EQ(take(1, 0), 1U);
    ASSERT_EQ(take(1, 1), 1U);
    clock.advance(seconds(1));
    settle_one(0);
    queue->poke();
    queue->wait_for_work(0);
    clock.advance(seconds(1));  // the other one works on
    settle_one(1);
    queue->wait_for_work(1);
    clock.advance(seconds(10));  // nobody does
  }
  submit(16);
  ASSERT_EQ(take(8, 0), 8U);
  ASSERT_EQ(take(8, 1), 8U);
  submit(10);
  // A request a second, and ten of them.
  const auto wait = queue->predicted_wait(7);
  ASSERT_TRUE(wait);
  EXPECT_NEAR(std::chrono::duration<double>(*wait).count(), 10, 0.5);
}

// Whoever was woken for a request that has left meanwhile waits on, and is woken for the next one.
TEST(RequestQueueTakers, ARequestThatLeavesTooSoonDoesNotHideTheNextOne) {
  const SteadyClock clock;
  schedule::TimerThread timers(clock);
  const auto queue = RequestQueue::create({}, 1, clock, timers, 1);
  queue->prepare_with([&](RequestQueue::Ticket ticket, const GenerationRequest&) {
    queue->prepared(ticket, std::vector<std::int32_t>{1});
  });
  std::jthread taker([&] {
    while (!queue->retired() || !queue->idle()) {
      for (Taken& one : queue->take(1)) queue->settle({completed(std::move(one))});
      if (!queue->has_work()) queue->wait_for_work();
    }
  });
  for (int i = 0; i < 3000; ++i) {
    const Call leaves = greedy_call("", 10);
    ASSERT_FALSE(queue->submit(leaves.request));
    leaves.request->cancel();
    // Sometimes it looks before the next one comes, sometimes after.
    const TimePoint until = clock.now() + std::chrono::microseconds(i % 100);
    while (clock.now() < until) {
    }
    const Call stays = greedy_call("", 10);
    ASSERT_FALSE(queue->submit(stays.request));
    EXPECT_TRUE(stays.heard->wait_end());
    if (stays.heard->ends() == 0) break;
  }
  queue->retire(/*if_idle=*/false);
  taker.join();
  queue->fail_waiting(make_error(Code::kUnavailable, "the test is over"));
  queue->close();
}

TEST(RequestQueueTakers, EachRequestIsTakenAndEndsOnce) {
  const SteadyClock clock;
  schedule::TimerThread timers(clock);
  schedule::QueueOptions options;
  options.all.max_requests = 4096;
  const auto queue = RequestQueue::create(options, 12, clock, timers, 3);
  queue->prepare_with([&](RequestQueue::Ticket ticket, const GenerationRequest&) {
    queue->prepared(ticket, std::vector<std::int32_t>{1});
  });
  std::vector<std::jthread> takers;
  for (std::size_t taker = 0; taker < 3; ++taker) {
    takers.emplace_back([&, taker] {
      while (!queue->retired() || !queue->idle()) {
        auto taken = queue->take(4, taker);
        if (taken.empty()) {
          queue->wait_for_work(taker);
          continue;
        }
        std::vector<Outcome> outcomes;
        for (Taken& one : taken) outcomes.push_back(completed(std::move(one)));
        queue->settle(outcomes, taker);
      }
    });
  }
  std::vector<Call> calls;
  for (int i = 0; i < 2000; ++i) {
    calls.push_back(greedy_call("", 10));
    ASSERT_FALSE(queue->submit(calls.back().request));
  }
  EXPECT_TRUE(queue->wait_idle(clock.now() + seconds(60)));
  queue->retire(/*if_idle=*/false);
  takers.clear();
  queue->close();
  for (const Call& call : calls) EXPECT_EQ(call.heard->ends(), 1);
}

}  // namespace
}  // namespace weir::model
