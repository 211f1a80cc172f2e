// SPDX-License-Identifier: Apache-2.0
//
// Requests that wait while their prompts are being prepared, which may take its time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "tests/unit/model/request_queue_fixture.h"

namespace weir::model {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

TEST_F(RequestQueueTest, WhatIsPreparedLateKeepsItsPlace) {
  make_unprepared();
  keep_tickets();
  std::vector<Call> calls;
  for (int i = 0; i < 3; ++i) {
    calls.push_back(call_of(10));
    ASSERT_FALSE(queue->submit(calls.back().request));
    clock.advance(seconds(1));
  }
  EXPECT_FALSE(queue->has_work());
  EXPECT_TRUE(queue->take(3).empty());
  queue->prepared(tickets[1], std::vector<std::int32_t>{5, 6, 7});
  queue->prepared(tickets[0], std::vector<std::int32_t>{8});
  EXPECT_TRUE(queue->has_work());
  auto taken = queue->take(3);
  ASSERT_EQ(taken.size(), 2U);
  EXPECT_EQ(taken[0].request, calls[0].request);
  EXPECT_EQ(taken[0].prompt, std::vector<std::int32_t>{8});
  EXPECT_EQ(taken[0].estimated_tokens, 11U);
  EXPECT_EQ(taken[0].taken - taken[0].accepted, seconds(3));
  EXPECT_EQ(taken[1].request, calls[1].request);
  EXPECT_EQ(taken[1].estimated_tokens, 13U);
  queue->settle({completed(std::move(taken[0]), 11), completed(std::move(taken[1]), 13)});
}

TEST_F(RequestQueueTest, TheUnpreparedCountForTheBounds) {
  schedule::QueueOptions options;
  options.all.max_requests = 2;
  options.all.max_tokens = 100;
  make_unprepared(options);
  keep_tickets();
  const Call first = call_of(10);
  const Call second = call_of(10);
  ASSERT_FALSE(queue->submit(first.request));
  ASSERT_FALSE(queue->submit(second.request));
  EXPECT_EQ(queue->submit(call_of(10).request)->reason, RefusalReason::kQueueFull);
  EXPECT_EQ(tickets.size(), 2U);  // a refused one is not prepared
  second.request->cancel();
  EXPECT_EQ(read(*queue).queued_tokens, 10U);
  // The exact count takes the place of the estimate, even where it is more than may wait.
  queue->prepared(tickets[0], std::vector<std::int32_t>(95));
  EXPECT_EQ(read(*queue).queued_tokens, 105U);
  EXPECT_THAT(queue->submit(call_of(1).request)->message, HasSubstr("bound: tokens"));
}

TEST_F(RequestQueueTest, TheUnpreparedLeaveLikeTheOthers) {
  make_unprepared();
  keep_tickets();
  const Call cancelled = call_of(10);
  const Call late = call_of(10);
  late.request->deadline = clock.now() + seconds(1);
  const Call unfit = call_of(10);
  const Call stopped = call_of(10);
  for (const Call* call : {&cancelled, &late, &unfit, &stopped}) {
    ASSERT_FALSE(queue->submit(call->request));
  }
  EXPECT_EQ(queue->waiting(tickets[0]), cancelled.request);
  cancelled.request->cancel();
  EXPECT_EQ(cancelled.heard->error()->code, Code::kCancelled);
  clock.advance(seconds(1));
  timers.wake();
  ASSERT_TRUE(late.heard->wait_end());
  EXPECT_EQ(late.heard->error()->code, Code::kResourceExhausted);
  queue->prepared(tickets[2], make_error(Code::kInvalidArgument, "the prompt is too long"));
  EXPECT_EQ(unfit.heard->error()->message, "the prompt is too long");
  EXPECT_FALSE(queue->wait_idle(TimePoint{}));
  queue->fail_waiting(make_error(Code::kUnavailable, "the agent is stopping"));
  EXPECT_EQ(stopped.heard->error()->code, Code::kUnavailable);
  EXPECT_TRUE(queue->wait_idle(SteadyClock().now() + seconds(60)));
  const ModelInfo info = read(*queue);
  EXPECT_EQ(info.cancelled, 1U);
  EXPECT_EQ(info.expired, 1U);
  EXPECT_EQ(info.failed, 2U);
  EXPECT_EQ(info.queued, 0U);
  // Whoever prepares them comes too late, and nobody hears a second end.
  for (const RequestQueue::Ticket ticket : tickets) {
    EXPECT_EQ(queue->waiting(ticket), nullptr);
    queue->prepared(ticket, std::vector<std::int32_t>{1});
    queue->prepared(ticket, make_error(Code::kInternal, "late"));
  }
  EXPECT_FALSE(queue->has_work());
  for (const Call* call : {&cancelled, &late, &unfit, &stopped}) EXPECT_EQ(call->heard->ends(), 1);
}

TEST_F(RequestQueueTest, WaitsUnpreparedUntilSomebodyPrepares) {
  make_unprepared();
  const Call first = call_of(10);
  const Call left = call_of(10);
  const Call second = call_of(10);
  for (const Call* call : {&first, &left, &second}) ASSERT_FALSE(queue->submit(call->request));
  left.request->cancel();
  EXPECT_TRUE(queue->has_work());  // for who makes it possible to prepare
  EXPECT_TRUE(queue->take(3).empty());
  keep_tickets();
  EXPECT_FALSE(queue->has_work());
  ASSERT_EQ(tickets.size(), 2U);
  EXPECT_EQ(queue->waiting(tickets[0]), first.request);
  EXPECT_EQ(queue->waiting(tickets[1]), second.request);
}

TEST_F(RequestQueueTest, PreparedOneEndsAWait) {
  make_unprepared();
  keep_tickets();
  const Call call = call_of(10);
  ASSERT_FALSE(queue->submit(call.request));
  auto waited = std::async(std::launch::async, [&] { queue->wait_for_work(); });
  queue->prepared(tickets[0], std::vector<std::int32_t>{1});
  waited.get();
  EXPECT_TRUE(queue->has_work());
}

}  // namespace
}  // namespace weir::model
