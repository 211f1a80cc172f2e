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
    total = layout_in(skeleton->obj, skeleton->maps.weir_total).value();
    pool = layout_in(skeleton->obj, skeleton->maps.weir_pool).value();
  }
  Layout backend;
  Layout total;
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
    options.from_backends = {
        RecordMemory{std::as_writable_bytes(std::span(old_backends_)), sizeof(weir_be)},
        RecordMemory{std::as_writable_bytes(std::span(old_totals_)), sizeof(weir_total)}};
    options.from_pools = {std::as_writable_bytes(std::span(old_pools_)), sizeof(weir_pool)};
    options.backend_layouts = options.our_backend_layouts = {own_.backend, own_.total};
    options.pool_layout = options.our_pool_layout = own_.pool;
    options.backends = backends_;
    options.totals = totals_;
    options.pools = pools_;
    options.sockets_kept = sockets_kept;
    return options;
  }

  const OwnLayouts own_;
  std::vector<weir_be> old_backends_ = std::vector<weir_be>(4);
  std::vector<weir_total> old_totals_ = std::vector<weir_total>(4);
  std::vector<weir_pool> old_pools_ = std::vector<weir_pool>(2);
  std::vector<weir_be> backends_ = std::vector<weir_be>(8);
  std::vector<weir_total> totals_ = std::vector<weir_total>(8);
  std::vector<weir_pool> pools_ = std::vector<weir_pool>(2);
};

TEST_F(UpgradeCarryTest, EveryFieldHasARule) {
  ASSERT_FALSE(own_.backend.fields.empty());
  ASSERT_FALSE(own_.total.fields.empty());
  ASSERT_FALSE(own_.pool.fields.empty());
  for (const Layout* layout : {&own_.backend, &own_.total}) {
    for (const LayoutField& field : layout->fields) {
      EXPECT_TRUE(backend_rule(field.name).has_value()) << field.name;
    }
  }
  for (const LayoutField& field : own_.pool.fields) {
    EXPECT_TRUE(pool_rule(field.name).has_value()) << "weir_pool." << field.name;
  }
}

TEST_F(UpgradeCarryTest, CountersMoveOnceHoweverOftenItIsDone) {
  old_totals_[1].connects = 7;
  old_pools_[0].picks = 9;
  auto moved = carry();
  moved.copy_owned();
  moved.raise_gauges();
  moved.transfer();
  old_totals_[1].connects += 2;  // by a program that is still running
  moved.transfer();
  moved.transfer();
  moved.lower_gauges();
  EXPECT_EQ(totals_[1].connects, 9U);
  EXPECT_EQ(pools_[0].picks, 9U);
  EXPECT_EQ(old_totals_[1].connects, 0U);
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
  old_totals_[0].connects = 8;
  auto moved = carry(false);
  moved.copy_owned();
  moved.raise_gauges();
  moved.transfer();
  EXPECT_EQ(moved.lower_gauges(), 0U);
  EXPECT_EQ(backends_[0].in_flight, 0U);
  EXPECT_EQ(totals_[0].connects, 8U);
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
  old_totals_[3].connects = 99;  // of a backend that left long ago
  auto moved = carry();
  moved.copy_owned();
  backends_[3].state = WEIR_BE_ACTIVE;  // a new one in its place
  moved.transfer();
  EXPECT_EQ(totals_[3].connects, 0U);
  EXPECT_FALSE(moved.carries(3));
  EXPECT_FALSE(moved.carries(7));
}

TEST_F(UpgradeCarryTest, ALayoutThatCannotBeReadIsRefusedWithMapAndField) {
  auto changed = options(true);
  for (LayoutField& field : changed.backend_layouts[1].fields) {
    if (field.name == "connects") field.type = "u4";
  }
  const auto refused = UpgradeCarry::create(changed);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
  EXPECT_NE(refused.error().message.find("weir_total: field connects"), std::string::npos)
      << refused.error().message;
  auto nameless = options(true);
  std::erase_if(nameless.pool_layout.fields,
                [](const LayoutField& field) { return field.name == "name"; });
  EXPECT_NE(UpgradeCarry::create(nameless).error().message.find("field name is not there"),
            std::string::npos);
}

/// As the maps were before weir_total: one record for all of it.
TEST_F(UpgradeCarryTest, FieldsGoOnInTheMapThatTheyAreInNow) {
  struct Whole {
    weir_be be;
    weir_total total;
  };
  std::vector<Whole> whole(4);
  whole[1].be = old_backends_[1];
  whole[1].be.in_flight = 2;
  whole[1].total.connects = 7;
  whole[1].total.is_local = 1;
  whole[1].total.consecutive_failures = 2;
  auto before = options(true);
  before.from_backends = {RecordMemory{std::as_writable_bytes(std::span(whole)), sizeof(Whole)},
                          RecordMemory{}};
  for (LayoutField field : own_.total.fields) {
    field.offset += offsetof(Whole, total);
    before.backend_layouts[0].fields.push_back(field);
  }
  before.backend_layouts[1] = {};
  auto moved = UpgradeCarry::create(before).value();
  moved.copy_owned();
  moved.raise_gauges();
  moved.transfer();
  EXPECT_EQ(moved.lower_gauges(), 0U);
  EXPECT_EQ(decode(backends_[1].address).to_string(), "127.0.0.1:2");
  EXPECT_EQ(backends_[1].in_flight, 2U);
  EXPECT_EQ(totals_[1].connects, 7U);
  EXPECT_EQ(totals_[1].is_local, 1U);
  EXPECT_EQ(totals_[1].consecutive_failures, 2U);
  EXPECT_EQ(totals_[0].connects, 0U);
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
      const bool opens_there = random() & 1;
      weir_total& total = opens_there ? old_totals_[0] : totals_[0];
      weir_be& closer = random() & 1 ? old_backends_[0] : backends_[0];
      __atomic_fetch_add(&total.connects, 1, __ATOMIC_RELAXED);
      weir_gauge_up(&(opens_there ? old_backends_[0] : backends_[0]).in_flight);
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
  EXPECT_EQ(totals_[0].connects, 2U * kRounds);
  EXPECT_EQ(backends_[0].in_flight, held.load());
}

}  // namespace
}  // namespace weir::kernel
