// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/fair_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

namespace weir::schedule {
namespace {

using std::chrono::milliseconds;
using Queue = FairQueue<int>;

TimePoint at_ms(int ms) { return TimePoint(milliseconds(ms)); }

QueueOptions at_most(std::size_t requests) {
  QueueOptions options;
  options.all.max_requests = requests;
  return options;
}

QueueKey key(std::int32_t level, std::optional<TimePoint> deadline = std::nullopt,
             std::string_view tenant = "a", std::uint64_t tokens = 1) {
  return {level, deadline, tenant, tokens};
}

/// The handle, or a failed test.
template <typename T>
typename FairQueue<T>::Handle push(FairQueue<T>& queue, TimePoint now, const QueueKey& where,
                                   T value) {
  auto pushed = queue.push(now, where, std::move(value));
  EXPECT_TRUE(std::holds_alternative<typename FairQueue<T>::Handle>(pushed));
  return std::get<typename FairQueue<T>::Handle>(pushed);
}

int pop(Queue& queue, TimePoint now = at_ms(0)) {
  auto popped = queue.pop(now);
  return popped ? popped->value : -1;
}

TEST(FairQueue, OneTenantIsServedByLevelThenDeadlineThenArrival) {
  Queue queue(at_most(8));
  push(queue, at_ms(0), key(2, at_ms(10)), 5);
  push(queue, at_ms(0), key(1), 3);
  push(queue, at_ms(0), key(1), 4);
  push(queue, at_ms(0), key(1, at_ms(20)), 2);
  push(queue, at_ms(0), key(0), 0);
  push(queue, at_ms(0), key(1, at_ms(15)), 1);
  for (int expected = 0; expected < 6; ++expected) EXPECT_EQ(pop(queue), expected);
  EXPECT_EQ(pop(queue), -1);
}

TEST(FairQueue, FullQueueNamesTheBoundAndLeavesTheValue) {
  QueueOptions options;
  options.all = {3, 100};
  options.levels[5] = {1, 30};
  FairQueue<std::unique_ptr<int>> queue(options);
  auto value = std::make_unique<int>(1);
  const auto refused_by = [&](const QueueKey& where) {
    const auto pushed = queue.push(at_ms(0), where, std::move(value));
    const auto* bound = std::get_if<QueueBound>(&pushed);
    EXPECT_NE(bound, nullptr);
    return bound != nullptr ? to_string(*bound) : "accepted";
  };
  EXPECT_EQ(refused_by(key(5, {}, "a", 31)), "tokens of the level");
  EXPECT_EQ(refused_by(key(4, {}, "a", 101)), "tokens");
  ASSERT_NE(value, nullptr);
  push(queue, at_ms(0), key(5, {}, "a", 30), std::make_unique<int>(2));
  EXPECT_EQ(refused_by(key(5)), "requests of the level");
  push(queue, at_ms(0), key(4, {}, "a", 70), std::make_unique<int>(3));
  EXPECT_EQ(refused_by(key(4)), "tokens");
  push(queue, at_ms(0), key(4, {}, "a", 0), std::make_unique<int>(4));
  EXPECT_EQ(refused_by(key(4, {}, "a", 0)), "requests");
  ASSERT_NE(value, nullptr);
  EXPECT_EQ(*value, 1);
  EXPECT_EQ(queue.load(), (QueueLoad{3, 100}));
  ASSERT_TRUE(queue.pop(at_ms(0)));
  EXPECT_EQ(queue.load(), (QueueLoad{2, 30}));
  push(queue, at_ms(0), key(4, {}, "a", 70), std::move(value));
}

TEST(FairQueue, WhoMovedUpCountsForTheLevelItCameWith) {
  QueueOptions options = at_most(10);
  options.levels[3].max_requests = 1;
  options.levels[2].max_requests = 1;
  options.ageing = milliseconds(10);
  Queue queue(options);
  push(queue, at_ms(0), key(3), 1);
  queue.age(at_ms(10));
  EXPECT_EQ(queue.load(2).requests, 1U);
  EXPECT_EQ(queue.load(3).requests, 0U);
  EXPECT_EQ(queue.full(3, 1), QueueBound::kLevelRequests);
  EXPECT_EQ(queue.full(2, 1), std::nullopt);
}

TEST(FairQueue, StaleHandleRemovesNothing) {
  Queue queue(at_most(4));
  const auto first = push(queue, at_ms(0), key(1), 1);
  EXPECT_EQ(queue.remove(first), 1);
  EXPECT_EQ(queue.remove(first), std::nullopt);
  // The slot is used again, by another value.
  push(queue, at_ms(0), key(1), 2);
  EXPECT_EQ(queue.remove(first), std::nullopt);
  EXPECT_EQ(queue.size(), 1U);
  EXPECT_EQ(queue.remove({99, 0}), std::nullopt);
}

TEST(FairQueue, ExpireGivesWhoseDeadlinePassedAndSaysWhenTheNextIsDue) {
  Queue queue(at_most(8));
  EXPECT_EQ(queue.next_event(), std::nullopt);
  push(queue, at_ms(0), key(1, at_ms(30)), 30);
  push(queue, at_ms(0), key(7, at_ms(10)), 10);
  push(queue, at_ms(0), key(0), 0);
  push(queue, at_ms(0), key(3, at_ms(20)), 20);
  EXPECT_EQ(queue.next_event(), at_ms(10));
  EXPECT_EQ(queue.expire(at_ms(9)), std::vector<int>{});
  EXPECT_EQ(queue.expire(at_ms(20)), (std::vector<int>{10, 20}));
  EXPECT_EQ(queue.next_event(), at_ms(30));
  EXPECT_EQ(pop(queue), 0);
  EXPECT_EQ(pop(queue), 30);
  EXPECT_EQ(queue.next_event(), std::nullopt);
}

TEST(FairQueue, TellsWhatIsAheadAndWhoIsOldest) {
  Queue queue(at_most(8));
  EXPECT_EQ(queue.oldest(), std::nullopt);
  const auto first = push(queue, at_ms(1), key(4, {}, "a", 10), 1);
  push(queue, at_ms(2), key(2, {}, "b", 5), 2);
  push(queue, at_ms(3), key(6, {}, "a", 100), 3);
  EXPECT_EQ(queue.ahead(1), (QueueLoad{0, 0}));
  EXPECT_EQ(queue.ahead(2), (QueueLoad{1, 5}));
  EXPECT_EQ(queue.ahead(5), (QueueLoad{2, 15}));
  EXPECT_EQ(queue.ahead(7), (QueueLoad{3, 115}));
  EXPECT_EQ(queue.oldest(), at_ms(1));
  EXPECT_EQ(queue.remove(first), 1);
  EXPECT_EQ(queue.oldest(), at_ms(2));
  EXPECT_EQ(queue.take_all(), (std::vector<int>{2, 3}));
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.oldest(), std::nullopt);
}

TEST(FairQueue, SurelyAheadIsWhatNoDeadlineOvertakes) {
  Queue queue(at_most(100));
  push(queue, at_ms(0), key(1, {}, "a", 1000), 0);       // above
  push(queue, at_ms(0), key(4, at_ms(10), "a", 30), 0);  // earlier
  push(queue, at_ms(0), key(4, at_ms(90), "a", 70), 0);  // later
  push(queue, at_ms(0), key(4, {}, "a", 500), 0);        // last
  push(queue, at_ms(0), key(5, at_ms(1), "a", 400), 0);  // below
  EXPECT_EQ(queue.surely_ahead(key(4, at_ms(50), "a")), (QueueLoad{2, 1030}));
  EXPECT_EQ(queue.surely_ahead(key(4, {}, "a")), (QueueLoad{4, 1600}));
  EXPECT_EQ(queue.surely_ahead(key(0, {}, "a")), (QueueLoad{0, 0}));
  // Another tenant is served as much meanwhile, if it has that much.
  push(queue, at_ms(0), key(4, {}, "b", 20), 0);
  EXPECT_EQ(queue.surely_ahead(key(4, at_ms(50), "a")), (QueueLoad{2, 1050}));
  push(queue, at_ms(0), key(4, {}, "b", 900), 0);
  EXPECT_EQ(queue.surely_ahead(key(4, at_ms(50), "a")), (QueueLoad{2, 1060}));
  EXPECT_EQ(queue.surely_ahead(key(4, at_ms(50), "new")), (QueueLoad{1, 1000}));
}

TEST(FairQueue, LooksAtABoundedNumberOfValues) {
  Queue queue(at_most(100'000));
  for (int i = 0; i < 10'000; ++i) push(queue, at_ms(0), key(4), i);
  EXPECT_EQ(queue.ahead(4).requests, 10'000U);
  EXPECT_GT(queue.surely_ahead(key(4)).requests, 100U);
  EXPECT_LE(queue.surely_ahead(key(4)).requests, 512U);
}

TEST(FairQueue, TenantsTakeTurnsByTokens) {
  Queue queue(at_most(100));
  for (int i = 0; i < 4; ++i) push(queue, at_ms(0), key(4, {}, "big", 30), 100 + i);
  for (int i = 0; i < 4; ++i) push(queue, at_ms(0), key(4, {}, "small", 10), 200 + i);
  const int expected[] = {100, 200, 201, 202, 101, 203, 102, 103};
  for (const int value : expected) EXPECT_EQ(pop(queue), value);
}

TEST(FairQueue, WeightsDivideTheTokens) {
  QueueOptions options = at_most(1000);
  options.weights = {{"gold", 3.0}};
  Queue queue(options);
  for (int i = 0; i < 400; ++i) {
    push(queue, at_ms(0), key(4, {}, i % 2 == 0 ? "gold" : "plain", 7), i % 2);
  }
  int gold = 0;
  for (int i = 0; i < 200; ++i) gold += pop(queue) == 0 ? 1 : 0;
  EXPECT_EQ(gold, 150);
}

TEST(FairQueue, IdleTimeIsNoCredit) {
  Queue queue(at_most(1000));
  for (int i = 0; i < 300; ++i) push(queue, at_ms(0), key(4, {}, "busy", 10), 0);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(pop(queue), 0);
  // Served nothing so far, and all the same no more than its share from now on.
  for (int i = 0; i < 100; ++i) push(queue, at_ms(0), key(4, {}, "late", 10), 1);
  int late = 0;
  for (int i = 0; i < 100; ++i) late += pop(queue);
  EXPECT_EQ(late, 50);
}

TEST(FairQueue, ChargeCorrectsTheEstimate) {
  Queue queue(at_most(1000));
  for (int i = 0; i < 100; ++i) {
    push(queue, at_ms(0), key(4, {}, "a", 100), 0);
    push(queue, at_ms(0), key(4, {}, "b", 100), 1);
  }
  int b = 0;
  for (int i = 0; i < 100; ++i) {
    const auto popped = queue.pop(at_ms(0));
    ASSERT_TRUE(popped);
    b += popped->value;
    // What b asks for stops after a quarter of the estimate.
    if (popped->tenant == "b") queue.charge("b", popped->level, -75);
  }
  EXPECT_EQ(b, 80);
}

TEST(FairQueue, CorrectionFromBeforeAnIdleTimeIsNoCredit) {
  Queue queue(at_most(1000));
  push(queue, at_ms(0), key(4, {}, "a", 1000), 0);
  push(queue, at_ms(0), key(4, {}, "b", 1000), 1);
  ASSERT_EQ(pop(queue), 0);
  for (int i = 0; i < 100; ++i) push(queue, at_ms(0), key(4, {}, "b", 100), 1);
  for (int i = 0; i < 41; ++i) ASSERT_EQ(pop(queue), 1);  // a is away; b is served 5000
  for (int i = 0; i < 100; ++i) push(queue, at_ms(0), key(4, {}, "a", 100), 0);
  queue.charge("a", 4, -1000);
  int b = 0;
  for (int i = 0; i < 60; ++i) b += pop(queue);
  EXPECT_EQ(b, 30);
}

TEST(FairQueue, AgeingMovesUpLevelByLevel) {
  QueueOptions options = at_most(100);
  options.ageing = milliseconds(100);
  Queue queue(options);
  push(queue, at_ms(0), key(2), 2);
  push(queue, at_ms(50), key(1, at_ms(9999)), 1);
  queue.age(at_ms(99));
  EXPECT_EQ(queue.promoted(), 0U);
  queue.age(at_ms(100));
  EXPECT_EQ(queue.promoted(), 1U);
  EXPECT_EQ(queue.load(1).requests, 2U);
  EXPECT_EQ(pop(queue, at_ms(149)), 1);  // the same level, and an earlier deadline
  // However late somebody looks, it is where the time has put it.
  queue.age(at_ms(200));
  EXPECT_EQ(queue.load(0).requests, 1U);
  EXPECT_EQ(queue.overdue(), 0U);
  queue.age(at_ms(300));
  EXPECT_EQ(queue.overdue(), 1U);
  EXPECT_EQ(pop(queue, at_ms(300)), 2);
  EXPECT_EQ(queue.overdue(), 0U);
}

TEST(FairQueue, OneOfFourPopsGoesToTheLongestOverdue) {
  QueueOptions options = at_most(1000);
  options.ageing = milliseconds(100);
  Queue queue(options);
  push(queue, at_ms(0), key(0), 1000);
  push(queue, at_ms(1), key(0), 1001);
  // From the same tenant, level and with deadlines: they would go first for ever.
  for (int i = 0; i < 100; ++i) push(queue, at_ms(150), key(0, at_ms(9999)), 1);
  std::vector<int> popped;
  for (int i = 0; i < 8; ++i) popped.push_back(pop(queue, at_ms(150)));
  EXPECT_EQ(popped, (std::vector<int>{1, 1, 1, 1000, 1, 1, 1, 1001}));
}

TEST(TenantShares, ForgetsWhoIsNotAhead) {
  const TenantWeights weights;
  TenantShares shares(weights);
  const std::size_t stays = shares.begin_waiting("stays");
  for (int i = 0; i < 10'000; ++i) {
    const std::size_t tenant = shares.begin_waiting("tenant" + std::to_string(i));
    shares.end_waiting(tenant);
  }
  EXPECT_EQ(shares.remembered(), 1U);
  // Those that are ahead are remembered, but not without end.
  for (int i = 0; i < 10'000; ++i) {
    const std::size_t tenant = shares.begin_waiting("tenant" + std::to_string(i));
    shares.serve(tenant, 10);
    shares.end_waiting(tenant);
  }
  EXPECT_EQ(shares.remembered(), 1 + TenantShares::kMostRemembered);
  shares.serve(stays, 10);
  EXPECT_EQ(shares.remembered(), 1U);
}

}  // namespace
}  // namespace weir::schedule
