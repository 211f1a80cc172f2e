// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/priority_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <tuple>

namespace weir::schedule {
namespace {

TimePoint at_ms(int ms) { return TimePoint(std::chrono::milliseconds(ms)); }

TEST(PriorityQueue, OrdersByPriorityThenDeadlineThenArrival) {
  PriorityQueue<int> queue(8);
  ASSERT_TRUE(queue.push({1, at_ms(10)}, 5));
  ASSERT_TRUE(queue.push({0, std::nullopt}, 3));
  ASSERT_TRUE(queue.push({0, std::nullopt}, 4));
  ASSERT_TRUE(queue.push({0, at_ms(20)}, 2));
  ASSERT_TRUE(queue.push({-1, std::nullopt}, 0));
  ASSERT_TRUE(queue.push({0, at_ms(15)}, 1));
  for (int expected = 0; expected < 6; ++expected) {
    EXPECT_EQ(queue.pop(), expected);
  }
  EXPECT_EQ(queue.pop(), std::nullopt);
}

TEST(PriorityQueue, FullQueueRefusesAndLeavesTheValue) {
  PriorityQueue<std::unique_ptr<int>> queue(1);
  ASSERT_TRUE(queue.push({}, std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(queue.push({}, std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(*second, 2);
  ASSERT_TRUE(queue.pop());
  EXPECT_TRUE(queue.push({}, std::move(second)));
}

TEST(PriorityQueue, StaleHandleRemovesNothing) {
  PriorityQueue<int> queue(4);
  const auto first = queue.push({}, 1);
  ASSERT_TRUE(first);
  EXPECT_EQ(queue.remove(*first), 1);
  EXPECT_EQ(queue.remove(*first), std::nullopt);
  // The slot is used again, by another value.
  ASSERT_TRUE(queue.push({}, 2));
  EXPECT_EQ(queue.remove(*first), std::nullopt);
  EXPECT_EQ(queue.size(), 1U);
  EXPECT_EQ(queue.remove({99, 0}), std::nullopt);
}

TEST(PriorityQueue, RemoveIfTakesExactlyTheChosen) {
  PriorityQueue<int> queue(100);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(queue.push({i % 7, std::nullopt}, int{i}));
  }
  std::vector<int> removed = queue.remove_if([](int value) { return value % 3 == 0; });
  std::sort(removed.begin(), removed.end());
  ASSERT_EQ(removed.size(), 34U);
  EXPECT_EQ(removed.front(), 0);
  EXPECT_EQ(removed.back(), 99);
  std::pair<int, int> previous{-1, -1};
  while (auto value = queue.pop()) {
    EXPECT_NE(*value % 3, 0);
    const std::pair<int, int> key{*value % 7, *value};
    EXPECT_LT(previous, key);
    previous = key;
  }
}

// 200 random histories against a model that sorts.
TEST(PriorityQueue, BehavesAsASortedListUnderRandomOperations) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    using Queue = PriorityQueue<int>;
    Queue queue(40);
    struct Item {
      std::tuple<int, int, int> key;
      Queue::Handle handle;
    };
    std::vector<Item> model;
    int arrivals = 0;
    for (int step = 0; step < 400; ++step) {
      const unsigned action = random() % 4;
      if (action < 2) {
        const int priority = static_cast<int>(random() % 3);
        const bool has_deadline = random() % 2 == 0;
        const int deadline = static_cast<int>(random() % 4);
        QueueKey key{priority, std::nullopt};
        if (has_deadline) {
          key.deadline = at_ms(deadline);
        }
        const auto handle = queue.push(key, int{arrivals});
        ASSERT_EQ(handle.has_value(), model.size() < 40);
        if (handle) {
          model.push_back({{priority, has_deadline ? deadline : 99, arrivals}, *handle});
        }
        ++arrivals;
      } else if (action == 2) {
        const auto popped = queue.pop();
        ASSERT_EQ(popped.has_value(), !model.empty());
        if (popped) {
          const auto first =
              std::min_element(model.begin(), model.end(),
                               [](const Item& a, const Item& b) { return a.key < b.key; });
          ASSERT_EQ(*popped, std::get<2>(first->key));
          model.erase(first);
        }
      } else if (!model.empty()) {
        const auto chosen = model.begin() + static_cast<std::ptrdiff_t>(random() % model.size());
        ASSERT_EQ(queue.remove(chosen->handle), std::get<2>(chosen->key));
        model.erase(chosen);
      }
      ASSERT_EQ(queue.size(), model.size());
    }
  }
}

}  // namespace
}  // namespace weir::schedule
