// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/token_bucket.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

namespace weir::admit {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr TimePoint kStart{hours(1000)};

TEST(TokenBucket, HoldsItsBurstAndNoMore) {
  const BucketShape shape(10, 3);
  TokenBucket bucket;
  EXPECT_TRUE(bucket.full(kStart));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bucket.take(shape, 1, kStart)) << i;
  EXPECT_FALSE(bucket.take(shape, 1, kStart));
  EXPECT_FALSE(bucket.full(kStart));
}

TEST(TokenBucket, TellsToTheNanosecondWhenTheNextTokenComes) {
  const BucketShape shape(10, 3);
  TokenBucket bucket;
  EXPECT_TRUE(bucket.take(shape, 3, kStart));
  EXPECT_EQ(bucket.wait(shape, 1, kStart), milliseconds(100));
  EXPECT_EQ(bucket.wait(shape, 3, kStart), milliseconds(300));
  EXPECT_FALSE(bucket.take(shape, 1, kStart + milliseconds(100) - nanoseconds(1)));
  EXPECT_TRUE(bucket.take(shape, 1, kStart + milliseconds(100)));
  EXPECT_EQ(bucket.wait(shape, 1, kStart + milliseconds(150)), milliseconds(50));
}

TEST(TokenBucket, AWaitRoundsUpSoThatItIsNeverTooShort) {
  const BucketShape shape(3, 1);
  TokenBucket bucket;
  EXPECT_TRUE(bucket.take(shape, 1, kStart));
  EXPECT_EQ(bucket.wait(shape, 1, kStart), nanoseconds(333'333'334));
  EXPECT_TRUE(bucket.take(shape, 1, kStart + nanoseconds(333'333'334)));
}

TEST(TokenBucket, MoreThanItHoldsNeverComes) {
  const BucketShape shape(1000, 10);
  const TokenBucket bucket;
  EXPECT_EQ(bucket.wait(shape, 10, kStart), Duration::zero());
  EXPECT_EQ(bucket.wait(shape, 11, kStart), std::nullopt);
}

TEST(TokenBucket, AFullOneMayOweWhatItDoesNotHold) {
  const BucketShape shape(100, 100, seconds(60));
  TokenBucket bucket;
  EXPECT_TRUE(bucket.take(shape, 1, kStart));
  EXPECT_EQ(bucket.wait(shape, 130, kStart), milliseconds(10)) << "until it is full";
  EXPECT_FALSE(bucket.take(shape, 130, kStart));
  const TimePoint full = kStart + milliseconds(10);
  EXPECT_TRUE(bucket.take(shape, 130, full));
  EXPECT_EQ(bucket.wait(shape, 1, full), milliseconds(310)) << "30 owed, and one of its own";
  EXPECT_FALSE(bucket.take(shape, 1, full + milliseconds(310) - nanoseconds(1)));
  EXPECT_TRUE(bucket.take(shape, 1, full + milliseconds(310)));
  bucket.give_back(shape, 130);
  EXPECT_EQ(bucket.wait(shape, 99, full + milliseconds(310)), Duration::zero());
}

TEST(TokenBucket, WhatItMayOweIsBounded) {
  const BucketShape shape(100, 100, seconds(60));
  TokenBucket bucket;
  EXPECT_EQ(bucket.wait(shape, 6101, kStart), std::nullopt);
  EXPECT_FALSE(bucket.take(shape, 6101, kStart));
  EXPECT_TRUE(bucket.take(shape, 6100, kStart));
  EXPECT_EQ(bucket.wait(shape, 6100, kStart), seconds(61));
}

TEST(TokenBucket, LeftAloneItIsAsNew) {
  const BucketShape shape(2, 4);
  TokenBucket bucket;
  EXPECT_TRUE(bucket.take(shape, 4, kStart));
  EXPECT_FALSE(bucket.full(kStart + milliseconds(1999)));
  EXPECT_TRUE(bucket.full(kStart + seconds(2)));
  EXPECT_TRUE(bucket.take(shape, 4, kStart + hours(500)));
  EXPECT_FALSE(bucket.take(shape, 1, kStart + hours(500)));
}

TEST(TokenBucket, GivingBackUndoesATake) {
  const BucketShape shape(1, 5);
  TokenBucket bucket;
  EXPECT_TRUE(bucket.take(shape, 5, kStart));
  bucket.give_back(shape, 2);
  EXPECT_TRUE(bucket.take(shape, 2, kStart));
  EXPECT_FALSE(bucket.take(shape, 1, kStart));
}

TEST(TokenBucket, GivenBackAfterItWasFullItHoldsNoMoreThanItsBurst) {
  const BucketShape shape(1, 5);
  TokenBucket bucket;
  EXPECT_TRUE(bucket.take(shape, 5, kStart));
  const TimePoint full = kStart + seconds(20);
  bucket.give_back(shape, 5);
  EXPECT_TRUE(bucket.take(shape, 5, full));
  EXPECT_FALSE(bucket.take(shape, 1, full));
}

TEST(TokenBucket, GivingBackNeverMakesMoreThanTheBurstAndTheRate) {
  std::mt19937_64 random(9);
  for (int round = 0; round < 100; ++round) {
    const double rate = std::uniform_real_distribution(1.0, 1000.0)(random);
    const int burst = std::uniform_int_distribution(1, 50)(random);
    const BucketShape shape(rate, burst);
    TokenBucket bucket;
    TimePoint now = kStart;
    int open = 0;  // taken, and may yet be given back
    int kept = 0;
    for (int step = 0; step < 1000; ++step) {
      now += nanoseconds(std::uniform_int_distribution(0, 20'000'000)(random));
      const int what = std::uniform_int_distribution(0, 3)(random);
      if (what < 2 && bucket.take(shape, 1, now)) ++open;
      if (what == 2 && open > 0) {
        --open;
        bucket.give_back(shape, 1);
      }
      if (what == 3 && open > 0) {
        --open;
        ++kept;
      }
      const double most = burst + rate * std::chrono::duration<double>(now - kStart).count();
      ASSERT_LE(kept + open, most + 1e-3) << "step " << step;
    }
  }
}

TEST(TokenBucket, ExtremesOfTheConfigurationFit) {
  const BucketShape slowest(0.001, 1e9);  // 31,700 years of tokens
  TokenBucket bucket;
  EXPECT_TRUE(bucket.take(slowest, 1, kStart));
  EXPECT_EQ(bucket.wait(slowest, 1, kStart), Duration::zero());
  EXPECT_TRUE(bucket.take(slowest, 1000, kStart));
  const BucketShape fastest(1e9, 1e9);
  TokenBucket fast;
  EXPECT_TRUE(fast.take(fastest, 1e9, kStart));
  EXPECT_EQ(fast.wait(fastest, 1, kStart), nanoseconds(1));
  EXPECT_EQ(fast.wait(fastest, 1e9, kStart), seconds(1));
}

// Against the textbook: a level that rises with time, in floating point.
TEST(TokenBucket, BehavesAsALevelThatRisesWithTime) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50; ++round) {
    const double rate = std::uniform_real_distribution(0.5, 2000.0)(random);
    const double burst = std::uniform_real_distribution(1.0, 100.0)(random);
    const BucketShape shape(rate, burst);
    TokenBucket bucket;
    double level = burst;
    TimePoint now = kStart;
    for (int step = 0; step < 400; ++step) {
      const auto gap = nanoseconds(std::uniform_int_distribution(0, 20'000'000)(random));
      now += gap;
      level = std::min(burst, level + std::chrono::duration<double>(gap).count() * rate);
      const double tokens = std::uniform_real_distribution(0.1, burst)(random);
      if (std::abs(level - tokens) < 1e-4) continue;  // either answer is right
      ASSERT_EQ(bucket.take(shape, tokens, now), level > tokens) << "step " << step;
      if (level > tokens) {
        level -= tokens;
      } else {
        const double wait =
            std::chrono::duration<double>(bucket.wait(shape, tokens, now).value()).count();
        ASSERT_NEAR(wait, (tokens - level) / rate, 1e-6);
      }
    }
  }
}

TEST(TokenBucket, ThreadsTogetherGetNoMoreThanItHolds) {
  const BucketShape shape(0.001, 1000);
  TokenBucket bucket;
  std::atomic<int> taken{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        if (bucket.take(shape, 1, kStart)) ++taken;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(taken, 1000);
}

}  // namespace
}  // namespace weir::admit
