// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/worker_ring.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace weir::schedule {
namespace {

using Value = std::unique_ptr<std::uint32_t>;

Value make(std::uint32_t number) { return std::make_unique<std::uint32_t>(number); }

TEST(WorkerRing, IsFirstInFirstOutAndBounded) {
  WorkerRing<Value, 4> ring;
  for (std::uint32_t round = 0; round < 10; ++round) {
    for (std::uint32_t i = 0; i < 4; ++i) {
      Value value = make(i);
      ASSERT_TRUE(ring.push(value));
      EXPECT_EQ(value, nullptr);
    }
    Value refused = make(9);
    EXPECT_FALSE(ring.push(refused));
    ASSERT_NE(refused, nullptr);
    EXPECT_EQ(ring.size(), 4U);
    for (std::uint32_t i = 0; i < 4; ++i) {
      Value value;
      ASSERT_TRUE(ring.pop(value));
      EXPECT_EQ(*value, i);
    }
    Value value;
    EXPECT_FALSE(ring.pop(value));
  }
}

TEST(WorkerRing, StealsTheOlderHalfRoundedUp) {
  WorkerRing<Value, 8> ring;
  WorkerRing<Value, 8> thief;
  EXPECT_EQ(ring.steal_into(thief), 0U);
  for (std::uint32_t i = 0; i < 5; ++i) {
    Value value = make(i);
    ASSERT_TRUE(ring.push(value));
  }
  EXPECT_EQ(ring.steal_into(thief), 3U);
  EXPECT_EQ(ring.size(), 2U);
  Value value;
  for (std::uint32_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(thief.pop(value));
    EXPECT_EQ(*value, i);
  }
  ASSERT_TRUE(ring.pop(value));
  EXPECT_EQ(*value, 3U);
}

TEST(WorkerRing, DoesNotStealIntoARingWithoutRoomForAHalf) {
  WorkerRing<Value, 4> ring;
  WorkerRing<Value, 4> thief;
  for (std::uint32_t i = 0; i < 3; ++i) {
    Value value = make(i);
    ASSERT_TRUE(thief.push(value));
  }
  Value value = make(7);
  ASSERT_TRUE(ring.push(value));
  EXPECT_EQ(ring.steal_into(thief), 0U);
  EXPECT_EQ(ring.size(), 1U);
}

TEST(WorkerRing, GivesItsOlderHalfAwayOnlyWhenFull) {
  WorkerRing<std::uint32_t, 4> ring;
  std::uint32_t out[2] = {};
  for (std::uint32_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(ring.push(i));
  }
  EXPECT_EQ(ring.take_half(out), 0U);
  std::uint32_t last = 3;
  ASSERT_TRUE(ring.push(last));
  EXPECT_EQ(ring.take_half(out), 2U);
  EXPECT_EQ(out[0], 0U);
  EXPECT_EQ(out[1], 1U);
  EXPECT_EQ(ring.size(), 2U);
}

/// What the interleavings cannot show: real threads, many rounds (and ThreadSanitizer over them).
TEST(WorkerRing, LosesAndDoublesNothingBetweenAnOwnerAndThieves) {
  constexpr std::uint32_t kValues = 200'000;
  constexpr std::size_t kThieves = 3;
  using Ring = WorkerRing<Value, 16>;
  Ring ring;
  std::vector<std::atomic<std::uint8_t>> seen(kValues);
  std::atomic<bool> over{false};
  const auto count = [&](const Value& value) { seen[*value].fetch_add(1); };

  std::vector<std::jthread> thieves;
  for (std::size_t i = 0; i < kThieves; ++i) {
    thieves.emplace_back([&] {
      Ring own;
      while (!over) {
        static_cast<void>(ring.steal_into(own));
        Value value;
        while (own.pop(value)) {
          count(value);
        }
      }
    });
  }
  std::mt19937 random(7);
  for (std::uint32_t i = 0; i < kValues; ++i) {
    Value value = make(i);
    while (!ring.push(value)) {
      alignas(Value) std::byte raw[sizeof(Value) * Ring::kHalf];
      auto* const out = reinterpret_cast<Value*>(raw);
      const std::uint32_t taken = ring.take_half(out);
      for (std::uint32_t k = 0; k < taken; ++k) {
        count(out[k]);
        out[k].~Value();
      }
    }
    if (random() % 3 == 0 && ring.pop(value)) {
      count(value);
    }
  }
  Value value;
  while (ring.pop(value)) {
    count(value);
  }
  over = true;
  thieves.clear();
  for (std::uint32_t i = 0; i < kValues; ++i) {
    ASSERT_EQ(seen[i].load(), 1) << i;
  }
}

}  // namespace
}  // namespace weir::schedule
