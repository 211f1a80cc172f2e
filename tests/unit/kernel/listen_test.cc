// SPDX-License-Identifier: Apache-2.0
#include "bpf/lib/listen.bpf.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "agent/kernel/backlog_strays.h"

namespace weir::kernel {
namespace {

class ListenerChoice : public testing::Test {
 protected:
  weir_listener& open(std::uint32_t slot) {
    depths_->listener[slot].ticket = 7;
    depths_->slots = std::max(depths_->slots, slot + 1);
    return depths_->listener[slot];
  }
  [[nodiscard]] std::uint32_t choose(std::uint32_t random = 0) const {
    return weir_listener_choose(depths_.get(), random);
  }

  std::unique_ptr<weir_depths> depths_ = std::make_unique<weir_depths>();
  std::uint32_t draw() { return static_cast<std::uint32_t>(random_()); }

  std::mt19937 random_{1};
};

TEST_F(ListenerChoice, NobodyListens) {
  EXPECT_EQ(choose(), std::uint32_t{WEIR_NO_LISTENER});
  open(3).ticket = 0;
  EXPECT_EQ(choose(), std::uint32_t{WEIR_NO_LISTENER});
}

TEST_F(ListenerChoice, LeastDepthWinsWhateverTheRandomNumber) {
  open(0).chosen = 5;
  open(1).chosen = 4;
  open(2).chosen = 6;
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(choose(draw()), 1U);
}

TEST_F(ListenerChoice, DepthIsBacklogAndRequestsInProgress) {
  weir_listener& one = open(0);
  one.chosen = 100;
  one.accepted = 90;
  one.strays = 4;
  one.waiting = 3;
  EXPECT_EQ(weir_listener_depth(&one), 9U);
  open(1).waiting = 8;
  EXPECT_EQ(choose(), 1U);
  depths_->listener[1].waiting = 10;
  EXPECT_EQ(choose(), 0U);
}

// A listener that was already open when it joined has accepted more than it was sent.
TEST_F(ListenerChoice, BacklogIsNeverNegative) {
  weir_listener& one = open(0);
  one.accepted = 50;
  one.waiting = 2;
  EXPECT_EQ(weir_listener_depth(&one), 2U);
  one.strays = static_cast<std::uint64_t>(-51);
  EXPECT_EQ(weir_listener_depth(&one), 3U);
}

TEST_F(ListenerChoice, ClosedListenersAreLeftOut) {
  for (std::uint32_t slot = 0; slot < 4; ++slot) open(slot).chosen = slot;
  depths_->listener[0].ticket = 0;
  EXPECT_EQ(choose(), 1U);
  depths_->listener[1].ticket = 0;
  EXPECT_EQ(choose(), 2U);
}

TEST_F(ListenerChoice, ReachesTheLastSlot) {
  for (std::uint32_t slot = 0; slot < WEIR_MAX_LISTENERS; ++slot) open(slot).chosen = 1;
  depths_->listener[WEIR_MAX_LISTENERS - 1].chosen = 0;
  EXPECT_EQ(choose(), std::uint32_t{WEIR_MAX_LISTENERS - 1});
}

TEST_F(ListenerChoice, SlotsNeverUsedAreNotLookedAt) {
  open(5);
  depths_->slots = 5;
  EXPECT_EQ(choose(), std::uint32_t{WEIR_NO_LISTENER});
  // Garbage in the count reads no memory behind the records.
  depths_->slots = std::numeric_limits<std::uint32_t>::max();
  EXPECT_EQ(choose(), 5U);
}

TEST_F(ListenerChoice, DepthsBeyondWhatIsComparedAreEqual) {
  open(0).chosen = 1ULL << 40;
  open(1).waiting = std::numeric_limits<std::uint32_t>::max();
  open(2).chosen = WEIR_LISTENER_MAX_DEPTH - 1;
  EXPECT_EQ(choose(), 2U);
  depths_->listener[2].ticket = 0;
  std::array<int, 2> taken{};
  for (int i = 0; i < 1000; ++i) ++taken.at(choose(draw()));
  EXPECT_GT(taken[0], 400);
  EXPECT_GT(taken[1], 400);
}

// Chi-square against equal shares; the bound is the 0.9999 quantile.
TEST_F(ListenerChoice, EqualsShareEvenly) {
  struct Case {
    std::vector<std::uint32_t> slots;
    double bound;
  };
  for (const Case& c : {Case{{0, 1}, 15.1}, Case{{0, 1, 2, 3}, 21.1},
                        Case{{3, 100, 101, 256, 300, 301, 400, 511}, 29.9}}) {
    *depths_ = {};
    for (const std::uint32_t slot : c.slots) open(slot).chosen = 2;
    open(9).chosen = 3;  // never
    constexpr int kDraws = 200'000;
    std::array<int, WEIR_MAX_LISTENERS + 1> taken{};
    for (int i = 0; i < kDraws; ++i) ++taken.at(choose(draw()));
    const double expected = static_cast<double>(kDraws) / static_cast<double>(c.slots.size());
    double chi_square = 0;
    int all = 0;
    for (const std::uint32_t slot : c.slots) {
      chi_square += std::pow(taken.at(slot) - expected, 2) / expected;
      all += taken.at(slot);
    }
    EXPECT_EQ(all, kDraws);
    EXPECT_LT(chi_square, c.bound) << c.slots.size() << " listeners";
  }
}

// The model: an exact search. 10^5 random tables.
TEST_F(ListenerChoice, AgreesWithAnExactSearch) {
  std::uniform_int_distribution<std::uint32_t> small(0, 5);
  for (int round = 0; round < 100'000; ++round) {
    depths_->slots = 16;
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
    for (std::uint32_t slot = 0; slot < 16; ++slot) {
      weir_listener& one = depths_->listener[slot];
      one.ticket = small(random_);
      one.chosen = small(random_);
      one.accepted = small(random_);
      one.waiting = small(random_);
      const std::uint64_t depth =
          (one.chosen > one.accepted ? one.chosen - one.accepted : 0) + one.waiting;
      if (one.ticket != 0) least = std::min(least, depth);
    }
    const std::uint32_t chosen = choose(draw());
    if (chosen == WEIR_NO_LISTENER) {
      ASSERT_EQ(least, std::numeric_limits<std::uint64_t>::max());
      continue;
    }
    ASSERT_NE(depths_->listener[chosen].ticket, 0U);
    ASSERT_EQ(weir_listener_depth(&depths_->listener[chosen]), least);
  }
}

TEST(BacklogStrays, HandshakesUnderWayAreNoStrays) {
  BacklogStrays strays;
  for (const int outstanding : {5, 3, 8, 0, 4, 9, 2, 0}) {
    EXPECT_EQ(strays.update(outstanding, 0), 0);
  }
}

TEST(BacklogStrays, WhatNeverComesIsForgottenAfterFourReadings) {
  BacklogStrays strays;
  EXPECT_EQ(strays.update(1000, 0), 0);
  EXPECT_EQ(strays.update(1004, 2), 0);
  EXPECT_EQ(strays.update(1007, 1), 0);
  EXPECT_EQ(strays.update(1001, 0), 1000);  // the least excess of the four
  for (int i = 0; i < 4; ++i) EXPECT_EQ(strays.update(1000, 0), 1000);
}

TEST(BacklogStrays, ALongerQueueThanBelievedIsBelievedAtOnce) {
  BacklogStrays strays;
  EXPECT_EQ(strays.update(0, 3), -3);  // queued before it joined
  EXPECT_EQ(strays.update(-3, 0), -3);
  for (int i = 0; i < 4; ++i) strays.update(10, 0);
  EXPECT_EQ(strays.update(10, 0), 10);
  EXPECT_EQ(strays.update(10, 4), 6);  // slow handshakes that did come
}

TEST(BacklogStrays, AFullQueueIsNoStray) {
  BacklogStrays strays;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(strays.update(128, 128), 0);
}

}  // namespace
}  // namespace weir::kernel
