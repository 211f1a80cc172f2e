// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/health.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>

#include "tests/fixtures/fake_clock.h"

namespace weir::upstream {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(SuccessWindow, KnowsNothingBelowItsLeastSample) {
  FakeClock clock;
  SuccessWindow window;
  EXPECT_FALSE(window.share(clock.now()));
  for (int i = 0; i < 4; ++i) window.record(false, clock.now());
  EXPECT_FALSE(window.share(clock.now()));
  window.record(false, clock.now());
  EXPECT_EQ(window.share(clock.now()), 0.0);
}

TEST(SuccessWindow, ForgetsWithTime) {
  FakeClock clock;
  SuccessWindow window;
  for (int i = 0; i < 20; ++i) window.record(i % 4 != 0, clock.now());
  EXPECT_DOUBLE_EQ(*window.share(clock.now()), 0.75);
  clock.advance(seconds(5));
  EXPECT_DOUBLE_EQ(*window.share(clock.now()), 0.75);  // fewer, and in the same proportion
  for (int i = 0; i < 10; ++i) window.record(false, clock.now());
  EXPECT_NEAR(*window.share(clock.now()), 15 / M_E / (20 / M_E + 10), 1e-9);
  clock.advance(seconds(20));
  EXPECT_FALSE(window.share(clock.now()));
}

TEST(SuccessWindow, UnderManyAttemptsADeathIsKnownAfterAFewDozen) {
  FakeClock clock;
  SuccessWindow window;
  for (int i = 0; i < 100'000; ++i) window.record(true, clock.now());
  int failures = 0;
  while (*window.share(clock.now()) >= 0.5) {
    window.record(false, clock.now());
    ++failures;
  }
  EXPECT_EQ(failures, 35);  // 0.98^35 < 0.5
}

TEST(SuccessWindow, FivePercentOfFailuresDoNotLookLikeADeath) {
  FakeClock clock;
  SuccessWindow window;
  for (int i = 0; i < 100'000; ++i) {
    window.record(i % 20 != 0, clock.now());
    if (i > 20) {
      ASSERT_GT(*window.share(clock.now()), 0.9) << i;
    }
  }
}

TEST(ModelHealth, WhatIsNotKnownIsHealthy) {
  FakeClock clock;
  ModelHealth health(clock);
  EXPECT_FALSE(health.below(1.0));
  EXPECT_FALSE(health.share());
}

TEST(ModelHealth, ThreeFailuresInARowAreKnownAtOnce) {
  FakeClock clock;
  ModelHealth health(clock);
  for (int i = 0; i < 100; ++i) {
    health.record(false);
    health.record(false);
    EXPECT_FALSE(health.failing());
    health.record(true);
  }
  for (int i = 0; i < 1000; ++i) health.record(false);
  EXPECT_TRUE(health.failing());
  health.record(true);
  EXPECT_FALSE(health.failing());
}

TEST(ModelHealth, HandsOutFourProbesASecond) {
  FakeClock clock;
  ModelHealth health(clock);
  int probes = 0;
  for (int i = 0; i < 1000; ++i) {
    probes += health.take_probe() ? 1 : 0;
    clock.advance(milliseconds(10));
  }
  EXPECT_EQ(probes, 40);
}

TEST(ModelHealth, ProbesBringItBack) {
  FakeClock clock;
  ModelHealth health(clock);
  for (int i = 0; i < 1000; ++i) health.record(false);
  int tenths = 0;
  for (; health.below(0.5) && tenths < 300; ++tenths) {
    if (health.take_probe()) health.record(true);
    clock.advance(milliseconds(100));
  }
  EXPECT_GT(tenths, 30);
  EXPECT_LT(tenths, 100);
}

TEST(HealthBoard, KeepsModelsApart) {
  FakeClock clock;
  HealthBoard board(clock);
  for (int i = 0; i < 10; ++i) {
    board.of("a").record(false);
    board.of("b").record(true);
  }
  static_cast<void>(board.of("idle"));
  const auto shares = board.shares();
  ASSERT_EQ(shares.size(), 2U);
  EXPECT_EQ(shares[0], std::pair(std::string("a"), 0.0));
  EXPECT_EQ(shares[1], std::pair(std::string("b"), 1.0));
}

}  // namespace
}  // namespace weir::upstream
