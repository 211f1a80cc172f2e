// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/upgrade_carry.h"

#include <bpf/libbpf.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "agent/kernel/decode.h"
#include "agent/kernel/libbpf_log.h"
#include "agent/kernel/upgrade_source.h"
#include "bpf/lib/breaker.bpf.h"
#include "bpf/lib/gauge.bpf.h"
#include "weir.skel.h"

namespace weir::kernel {
namespace {

/// The layouts of this build, as the embedded programs have them.
struct OwnLayouts {
  OwnLayouts() {
    route_libbpf_log();
    const std::unique_ptr<weir_bpf, void (*)(weir_bpf*)> skeleton(weir_bpf__open(),
                                                                  weir_bpf__destroy);
    if (!skeleton) return;
    backend = layout_in(skeleton->obj, skeleton->maps.weir_be).value();
    pool = layout_in(skeleton->obj, skeleton->maps.weir_pool).value();
  }
  Layout backend;
  Layout pool;
};

class UpgradeCarryTest : public testing::Test {
 protected:
  UpgradeCarryTest() {
    for (std::size_t i = 0; i < 2; ++i) {
      old_backends_[i].state = WEIR_BE_ACTIVE;
      old_backends_[i].address =
          encode(Endpoint::parse("127.0.0.1:" + std::to_string(i + 1)).value());
      old_backends_[i].weight_q16 = 65536;
    }
    old_pools_[0].in_use = 1;
    std::strcpy(old_pools_[0].name, "chat");
  }

  UpgradeCarry carry(bool sockets_kept = true) {
    return UpgradeCarry::create(options(sockets_kept)).value();
  }
  UpgradeCarry::Options options(bool sockets_kept) {
    UpgradeCarry::Options options;
    options.from_backends = {std::as_writable_bytes(std::span(old_backends_)), sizeof(weir_be)};
    options.from_pools = {std::as_writable_bytes(std::span(old_pools_)), sizeof(weir_pool)};
    options.backend_layout = options.our_backend_layout = own_.backend;
    options.pool_layout = options.our_pool_layout = own_.pool;
    options.backends = backends_;
    options.pools = pools_;
    options.sockets_kept = sockets_kept;
    return options;
  }

  const OwnLayouts own_;
  std::vector<weir_be> old_backends_ = std::vector<weir_be>(4);
  std::vector<weir_pool> old_pools_ = std::vector<weir_pool>(2);
  std::vector<weir_be> backends_ = std::vector<weir_be>(8);
  std::vector<weir_pool> pools_ = std::vector<weir_pool>(2);
};

TEST_F(UpgradeCarryTest, EveryFieldHasARule) {
  ASSERT_FALSE(own_.backend.fields.empty());
  ASSERT_FALSE(own_.pool.fields.empty());
  for (const LayoutField& field : own_.backend.fields) {
    EXPECT_TRUE(backend_rule(field.name).has_value()) << "weir_be." << field.name;
  }
  for (const LayoutField& field : own_.pool.fields) {
    EXPECT_TRUE(pool_rule(field.name).has_value()) << "weir_pool." << field.name;
  }
}

TEST_F(UpgradeCarryTest, CountersMoveOnceHoweverOftenItIsDone) {
  old_backends_[1].connects = 7;
  old_pools_[0].picks = 9;
  auto moved = carry();
  moved.copy_owned();
  moved.raise_gauges();
  moved.transfer();
  old_backends_[1].connects += 2;  // by a program that is still running
  moved.transfer();
  moved.transfer();
  moved.lower_gauges();
  EXPECT_EQ(backends_[1].connects, 9U);
  EXPECT_EQ(pools_[0].picks, 9U);
  EXPECT_EQ(old_backends_[1].connects, 0U);
  EXPECT_STREQ(pools_[0].name, "chat");
  EXPECT_EQ(backends_[1].weight_q16, 65536U);
}

TEST_F(UpgradeCarryTest, AGaugeMayGoDownOnEitherSide) {
  old_backends_[0].in_flight = 3;
  auto moved = carry();
  moved.copy_owned();
  moved.raise_gauges();
  moved.transfer();
  // Four more are opened by old programs and all seven closed by new ones; two opened by new ones
  // and closed by old ones.
  for (int i = 0; i < 4; ++i) weir_gauge_up(&old_backends_[0].in_flight);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(weir_gauge_down(&backends_[0].in_flight), 0U);
  for (int i = 0; i < 2; ++i) weir_gauge_up(&backends_[0].in_flight);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(weir_gauge_down(&old_backends_[0].in_flight), 0U);
  moved.transfer();
  EXPECT_EQ(moved.lower_gauges(), 0U);
  EXPECT_EQ(backends_[0].in_flight, 0U);
}

TEST_F(UpgradeCarryTest, AnInterruptedUpgradeGoesOnFromTheBeginning) {
  old_backends_[0].waiting = 5;
  auto first = carry();
  first.copy_owned();
  first.raise_gauges();
  first.transfer();
  weir_gauge_up(&old_backends_[0].waiting);
  weir_gauge_down(&backends_[0].waiting);
  // Another agent, which knows nothing of the first one.
  auto second = carry();
  second.raise_gauges();
  second.transfer();
  weir_gauge_down(&backends_[0].waiting);
  second.transfer();
  EXPECT_EQ(second.lower_gauges(), 0U);
  EXPECT_EQ(backends_[0].waiting, 4U);
}

TEST_F(UpgradeCarryTest, AdoptedMapsLoseTheBiasOfAnUpgradeThatNeverWas) {
  backends_[0].state = WEIR_BE_ACTIVE;
  backends_[0].in_flight = kGaugeBias + 6;
  backends_[0].fresh = 2;
  lower_gauges(backends_);
  EXPECT_EQ(backends_[0].in_flight, 6U);
  EXPECT_EQ(backends_[0].fresh, 2U);
}

TEST_F(UpgradeCarryTest, WithoutTheirSocketsGaugesStartAtZero) {
  old_backends_[0].in_flight = 3;
  old_backends_[0].connects = 8;
  auto moved = carry(false);
  moved.copy_owned();
  moved.raise_gauges();
  moved.transfer();
  EXPECT_EQ(moved.lower_gauges(), 0U);
  EXPECT_EQ(backends_[0].in_flight, 0U);
  EXPECT_EQ(backends_[0].connects, 8U);
  EXPECT_EQ(old_backends_[0].in_flight, 3U);
}

TEST_F(UpgradeCarryTest, ABreakerThatOpensMeanwhileOpensInTheNewMaps) {
  auto moved = carry();
  moved.copy_owned();
  moved.transfer();
  old_backends_[1].breaker = 5u << WEIR_BREAKER_UNTIL_SHIFT | WEIR_BREAKER_OPEN;
  moved.transfer();
  EXPECT_EQ(backends_[1].breaker, old_backends_[1].breaker);
  EXPECT_EQ(pools_[0].open, 1U);
  backends_[1].breaker = WEIR_BREAKER_HALF_OPEN;  // later news, from a new program
  old_backends_[1].breaker = 0;
  moved.transfer();
  EXPECT_EQ(backends_[1].breaker, std::uint64_t{WEIR_BREAKER_HALF_OPEN});
  EXPECT_EQ(pools_[0].open, 1U);
}

TEST_F(UpgradeCarryTest, RecordsThatWereFreeBringNothing) {
  old_backends_[3].connects = 99;  // of a backend that left long ago
  auto moved = carry();
  moved.copy_owned();
  backends_[3].state = WEIR_BE_ACTIVE;  // a new one in its place
  moved.transfer();
  EXPECT_EQ(backends_[3].connects, 0U);
  EXPECT_FALSE(moved.carries(3));
  EXPECT_FALSE(moved.carries(7));
}

TEST_F(UpgradeCarryTest, ALayoutThatCannotBeReadIsRefusedWithMapAndField) {
  auto changed = options(true);
  for (LayoutField& field : changed.backend_layout.fields) {
    if (field.name == "connects") field.type = "u4";
  }
  const auto refused = UpgradeCarry::create(changed);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
  EXPECT_NE(refused.error().message.find("weir_be: field connects"), std::string::npos)
      << refused.error().message;
  auto nameless = options(true);
  std::erase_if(nameless.pool_layout.fields,
                [](const LayoutField& field) { return field.name == "name"; });
  EXPECT_NE(UpgradeCarry::create(nameless).error().message.find("field name is not there"),
            std::string::npos);
}

TEST_F(UpgradeCarryTest, NothingIsLostBetweenThreads) {
  constexpr int kRounds = 200'000;
  auto moved = carry();
  moved.copy_owned();
  moved.raise_gauges();
  moved.transfer();
  std::atomic<int> running = 2;
  std::atomic<std::uint32_t> held = 0;
  // As programs on two CPUs: each connection is opened on one side and closed on either.
  const auto programs = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < kRounds; ++i) {
      weir_be& opener = random() & 1 ? old_backends_[0] : backends_[0];
      weir_be& closer = random() & 1 ? old_backends_[0] : backends_[0];
      __atomic_fetch_add(&opener.connects, 1, __ATOMIC_RELAXED);
      weir_gauge_up(&opener.in_flight);
      if (random() % 1000 == 0) {
        ++held;
      } else if (weir_gauge_down(&closer.in_flight) != 0) {
        ADD_FAILURE() << "below zero";
      }
    }
    --running;
  };
  std::jthread one(programs, 1);
  std::jthread two(programs, 2);
  while (running > 0) moved.transfer();
  one.join();
  two.join();
  moved.transfer();
  EXPECT_EQ(moved.lower_gauges(), 0U);
  EXPECT_EQ(backends_[0].connects, 2U * kRounds);
  EXPECT_EQ(backends_[0].in_flight, held.load());
}

}  // namespace
}  // namespace weir::kernel
