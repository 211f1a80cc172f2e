// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/tables.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "agent/kernel/decode.h"
#include "bpf/lib/pick.bpf.h"
#include "tests/fixtures/fake_clock.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

ServiceSpec service(std::string name, std::string_view address,
                    std::initializer_list<std::string_view> backends) {
  ServiceSpec spec;
  spec.name = std::move(name);
  spec.address = Endpoint::parse(address).value();
  for (const std::string_view backend : backends) {
    spec.backends.push_back({Endpoint::parse(backend).value(), false});
  }
  return spec;
}

class TablesTest : public testing::Test {
 protected:
  TableMemory memory() { return {pools_, backends_, slots_}; }
  Result<TableChanges> configure(const std::vector<ServiceSpec>& services) {
    return tables_.configure(services, clock_.now());
  }
  Status publish(const std::vector<BackendDecision>& decisions) {
    return tables_.publish(decisions, clock_.now());
  }
  /// The backends that the pool's table in force can yield.
  std::set<std::uint32_t> in_table(std::uint32_t pool) {
    std::set<std::uint32_t> found;
    const std::uint64_t word = pools_[pool].table;
    for (std::uint32_t i = 0; i < weir_table_slots(word); ++i) {
      found.insert(slots_[weir_table_first(word) + i].backend);
      found.insert(slots_[weir_table_first(word) + i].alias);
    }
    return found;
  }

  std::vector<weir_pool> pools_ = std::vector<weir_pool>(WEIR_MAX_POOLS);
  std::vector<weir_be> backends_ = std::vector<weir_be>(WEIR_MAX_BACKENDS);
  std::vector<weir_pick_slot> slots_ =
      std::vector<weir_pick_slot>(WEIR_MAX_POOLS * 2 * WEIR_POOL_SLOTS);
  FakeClock clock_;
  Tables tables_{memory()};
};

TEST_F(TablesTest, ConfigureGivesRecordsAndRoutes) {
  auto changes = configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"}),
                            service("b", "127.1.0.2:80", {"127.0.0.1:1"})});
  ASSERT_TRUE(changes.ok());
  EXPECT_EQ(changes->new_backends, (std::vector<std::uint32_t>{0, 1, 2}));
  ASSERT_EQ(changes->routes.size(), 2U);
  EXPECT_EQ(changes->routes[0].pool, 0U);
  EXPECT_EQ(decode(changes->routes[1].service).to_string(), "127.1.0.2:80");
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_ACTIVE});
  EXPECT_EQ(backends_[2].pool, 1U);  // same address, other service: a record of its own
  EXPECT_STREQ(pools_[1].name, "b");
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0, 1}));  // evenly, until the first publish
  EXPECT_EQ(in_table(1), (std::set<std::uint32_t>{2}));
}

TEST_F(TablesTest, PoolIsNotEmptyWhenEveryBackendIsReplaced) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"}),
                         service("b", "127.1.0.2:80", {"127.0.0.1:3", "127.0.0.1:4"})})
                  .ok());
  ASSERT_TRUE(publish({{0, WEIR_BE_OPEN, 0},
                       {1, WEIR_BE_ACTIVE, 1},
                       {2, WEIR_BE_ACTIVE, 1},
                       {3, WEIR_BE_ACTIVE, 1}})
                  .ok());
  const std::uint64_t kept = pools_[1].table;

  Tables next(memory());
  ASSERT_TRUE(next.configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:5"}),
                              service("b", "127.1.0.2:80", {"127.0.0.1:4", "127.0.0.1:6"})},
                             clock_.now())
                  .ok());
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{4}));  // 0 stays, but its breaker is open
  EXPECT_EQ(backends_[0].state, weir_u32{WEIR_BE_OPEN});
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_DRAINING});
  EXPECT_EQ(pools_[1].table, kept);  // the last weights stay in force
}

TEST_F(TablesTest, ServiceThatMovesTakesItsNameAlong) {
  const std::string name(WEIR_NAME_LEN - 1, 'n');
  ASSERT_TRUE(configure({service(name, "127.1.0.1:80", {"127.0.0.1:1"}),
                         service("b", "127.1.0.2:80", {"127.0.0.1:2"})})
                  .ok());
  for (int start = 0; start < 2; ++start) {  // the second finds it renamed already
    Tables next(memory());
    ASSERT_TRUE(
        next.configure({service(name, "127.1.0.9:80", {"127.0.0.1:1"})}, clock_.now()).ok());
    EXPECT_EQ(decode(pools_[0], 0).name, name.substr(0, WEIR_NAME_LEN - 3) + "#0");
    EXPECT_STREQ(pools_[1].name, "b");  // gone, but nobody else has its name
    EXPECT_EQ(decode(pools_[2], 2).name, name);
  }
}

TEST_F(TablesTest, PublishAlternatesHalves) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"})}).ok());
  ASSERT_TRUE(publish({{0, WEIR_BE_ACTIVE, 1}, {1, WEIR_BE_ACTIVE, 1}}).ok());
  const std::uint32_t first = weir_table_first(pools_[0].table);
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0, 1}));
  ASSERT_TRUE(publish({{0, WEIR_BE_ACTIVE, 1}, {1, WEIR_BE_OPEN, 1}}).ok());
  EXPECT_NE(weir_table_first(pools_[0].table), first);
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0}));
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_OPEN});
  ASSERT_TRUE(publish({}).ok());  // not mentioned: no new connection
  EXPECT_EQ(weir_table_first(pools_[0].table), first);
  EXPECT_TRUE(in_table(0).empty());
}

TEST_F(TablesTest, PublishRefusesBadDecisionsAndChangesNothing) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1"})}).ok());
  ASSERT_TRUE(publish({{0, WEIR_BE_ACTIVE, 2}}).ok());
  const weir_pool before = pools_[0];
  for (const std::vector<BackendDecision>& bad : std::vector<std::vector<BackendDecision>>{
           {{0, WEIR_BE_OPEN, 1}, {1, WEIR_BE_ACTIVE, 1}},
           {{WEIR_MAX_BACKENDS, WEIR_BE_ACTIVE, 1}},
           {{0, WEIR_BE_ACTIVE, -1}},
           {{0, WEIR_BE_ACTIVE, std::numeric_limits<double>::quiet_NaN()}},
           {{0, WEIR_BE_FREE, 1}},
           {{0, WEIR_BE_ACTIVE, 1}, {0, WEIR_BE_ACTIVE, 1}}}) {
    const Status status = publish(bad);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, Code::kInvalidArgument);
  }
  EXPECT_EQ(pools_[0].table, before.table);
  EXPECT_EQ(backends_[0].state, weir_u32{WEIR_BE_ACTIVE});
  EXPECT_EQ(backends_[0].weight_q16, 2U * 65536);
}

TEST_F(TablesTest, NewAgentKeepsIndexCountersAndTable) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"})}).ok());
  ASSERT_TRUE(publish({{0, WEIR_BE_ACTIVE, 1}, {1, WEIR_BE_ACTIVE, 3}}).ok());
  backends_[1].connects = 77;
  backends_[1].in_flight = 5;

  Tables restarted(memory());
  auto changes = restarted.configure(
      {service("renamed", "127.1.0.1:80", {"127.0.0.1:3", "127.0.0.1:2", "127.0.0.1:1"})},
      clock_.now());
  ASSERT_TRUE(changes.ok());
  EXPECT_EQ(changes->new_backends, (std::vector<std::uint32_t>{2}));
  EXPECT_EQ(backends_[1].connects, 77U);
  EXPECT_EQ(backends_[1].in_flight, 5U);
  EXPECT_EQ(decode(backends_[1].address).to_string(), "127.0.0.1:2");
  EXPECT_STREQ(pools_[0].name, "renamed");
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0, 1}));  // in force until publish
}

TEST_F(TablesTest, RemovedBackendDrainsAndIsFreedOnlyWhenUnused) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"})}).ok());
  backends_[1].in_flight = 1;
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1"})}).ok());
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_DRAINING});

  clock_.advance(10s);
  ASSERT_TRUE(publish({{0, WEIR_BE_ACTIVE, 1}, {1, WEIR_BE_ACTIVE, 1}}).ok());
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_DRAINING});  // whatever the loop thinks
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0}));

  backends_[1].in_flight = 0;
  ASSERT_TRUE(publish({{0, WEIR_BE_ACTIVE, 1}}).ok());
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_FREE});
}

TEST_F(TablesTest, RemovedBackendIsKeptForAMoment) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"})}).ok());
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1"})}).ok());
  clock_.advance(999ms);
  ASSERT_TRUE(publish({}).ok());
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_DRAINING});
  clock_.advance(1ms);
  ASSERT_TRUE(publish({}).ok());
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_FREE});
}

TEST_F(TablesTest, RemovedServiceLosesItsRouteAtOnceAndItsRecordWhenDrained) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1"})}).ok());
  backends_[0].in_flight = 1;
  auto changes = configure({service("b", "127.1.0.2:80", {"127.0.0.1:1"})});
  ASSERT_TRUE(changes.ok());
  ASSERT_EQ(changes->routes.size(), 1U);
  EXPECT_EQ(changes->routes[0].pool, 1U);
  clock_.advance(5s);
  ASSERT_TRUE(publish({}).ok());
  EXPECT_EQ(pools_[0].in_use, 1U);
  backends_[0].in_flight = 0;
  ASSERT_TRUE(publish({}).ok());
  EXPECT_EQ(pools_[0].in_use, 0U);
  EXPECT_EQ(pools_[1].in_use, 1U);
}

TEST_F(TablesTest, FreedRecordStartsFromZero) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1"})}).ok());
  backends_[0].connects = 9;
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {})}).ok());
  clock_.advance(2s);
  ASSERT_TRUE(publish({}).ok());
  auto changes = configure({service("a", "127.1.0.1:80", {"127.0.0.1:2"})});
  ASSERT_TRUE(changes.ok());
  EXPECT_EQ(changes->new_backends, (std::vector<std::uint32_t>{0}));
  EXPECT_EQ(backends_[0].connects, 0U);
}

TEST_F(TablesTest, RefusesWhatDoesNotFit) {
  const auto code = [&](const std::vector<ServiceSpec>& services) {
    auto result = configure(services);
    return result.ok() ? Code::kInternal : result.error().code;
  };
  EXPECT_EQ(code({service("", "127.1.0.1:80", {})}), Code::kInvalidArgument);
  EXPECT_EQ(code({service(std::string(WEIR_NAME_LEN, 'x'), "127.1.0.1:80", {})}),
            Code::kInvalidArgument);
  EXPECT_EQ(code({service("a", "127.1.0.1:80", {}), service("b", "127.1.0.1:80", {})}),
            Code::kInvalidArgument);
  EXPECT_EQ(code({service("a", "127.1.0.1:80", {"127.0.0.1:1", "[::ffff:127.0.0.1]:1"})}),
            Code::kInvalidArgument);

  std::vector<ServiceSpec> many;
  for (int i = 0; i <= WEIR_MAX_POOLS; ++i) {
    many.push_back(service("s", "127.1.0.1:" + std::to_string(1000 + i), {}));
  }
  EXPECT_EQ(code(many), Code::kResourceExhausted);
  EXPECT_EQ(pools_[0].in_use, 0U);
  many.pop_back();
  EXPECT_TRUE(configure(many).ok());
}

}  // namespace
}  // namespace weir::kernel
