// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/tables.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "agent/kernel/decode.h"
#include "bpf/lib/alias.bpf.h"
#include "bpf/lib/breaker.bpf.h"
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

std::vector<std::string> spell(const std::vector<Route>& routes) {
  std::vector<std::string> lines;
  for (const Route& route : routes) {
    lines.push_back(decode(route.address).to_string() +
                    (route.target.kind == WEIR_TARGET_SERVICE ? " service " : " backend ") +
                    std::to_string(route.target.index));
  }
  return lines;
}

class TablesTest : public testing::Test {
 protected:
  static constexpr std::uint32_t kRoom = 128;
  TableMemory memory() { return {pools_, backends_, totals_, slots_}; }
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
  std::vector<weir_be> backends_ = std::vector<weir_be>(kRoom);
  std::vector<weir_total> totals_ = std::vector<weir_total>(kRoom);
  std::vector<weir_pick_slot> slots_ = std::vector<weir_pick_slot>(WEIR_MAX_POOLS * 2 * kRoom);
  FakeClock clock_;
  Tables tables_{memory()};
};

TEST_F(TablesTest, ConfigureGivesRecordsAndRoutes) {
  auto changes = configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"}),
                            service("b", "127.1.0.2:80", {"127.0.0.1:1"})});
  ASSERT_TRUE(changes.ok());
  EXPECT_EQ(changes->new_backends, (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(spell(changes->routes),
            (std::vector<std::string>{"127.1.0.1:80 service 0", "127.1.0.2:80 service 1",
                                      "127.0.0.1:1 backend 0", "127.0.0.1:2 backend 1"}));
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_ACTIVE});
  EXPECT_EQ(backends_[2].pool, 1U);  // same address, other service: a record of its own
  EXPECT_STREQ(pools_[1].name, "b");
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0, 1}));  // evenly, until the first publish
  EXPECT_EQ(in_table(1), (std::set<std::uint32_t>{2}));
  EXPECT_EQ(pools_[1].first, 2U);
}

TEST_F(TablesTest, PoolIsNotEmptyWhenEveryBackendIsReplaced) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"}),
                         service("b", "127.1.0.2:80", {"127.0.0.1:3", "127.0.0.1:4"})})
                  .ok());
  ASSERT_TRUE(publish({{0, 0, {}}, {1, 1, {}}, {2, 1, {}}, {3, 1, {}}}).ok());
  const std::uint64_t kept = pools_[1].table;

  Tables next(memory());
  ASSERT_TRUE(next.configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:5"}),
                              service("b", "127.1.0.2:80", {"127.0.0.1:4", "127.0.0.1:6"})},
                             clock_.now())
                  .ok());
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0, 4}));  // 0 stays, but had no weight
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
  ASSERT_TRUE(publish({{0, 1, {}}, {1, 1, {}}}).ok());
  const std::uint32_t first = weir_table_first(pools_[0].table);
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0, 1}));
  ASSERT_TRUE(publish({{0, 1, {}}, {1, 0, {}}}).ok());
  EXPECT_NE(weir_table_first(pools_[0].table), first);
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0}));
  ASSERT_TRUE(publish({}).ok());  // not mentioned: no new connection
  EXPECT_EQ(weir_table_first(pools_[0].table), first);
  EXPECT_TRUE(in_table(0).empty());
}

TEST_F(TablesTest, PublishRefusesBadDecisionsAndChangesNothing) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1"})}).ok());
  ASSERT_TRUE(publish({{0, 2, {}}}).ok());
  const weir_pool before = pools_[0];
  for (const std::vector<BackendDecision>& bad : std::vector<std::vector<BackendDecision>>{
           {{0, 1, {}}, {1, 1, {}}},
           {{kRoom, 1, {}}},
           {{0, -1, {}}},
           {{0, std::numeric_limits<double>::quiet_NaN(), {}}},
           {{0, 1, {}}, {0, 1, {}}}}) {
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
  ASSERT_TRUE(publish({{0, 1, {}}, {1, 3, {}}}).ok());
  totals_[1].connects = 77;
  backends_[1].in_flight = 5;

  Tables restarted(memory());
  auto changes = restarted.configure(
      {service("renamed", "127.1.0.1:80", {"127.0.0.1:3", "127.0.0.1:2", "127.0.0.1:1"})},
      clock_.now());
  ASSERT_TRUE(changes.ok());
  EXPECT_EQ(changes->new_backends, (std::vector<std::uint32_t>{2}));
  EXPECT_EQ(totals_[1].connects, 77U);
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
  ASSERT_TRUE(publish({{0, 1, {}}, {1, 1, {}}}).ok());
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_DRAINING});  // whatever the loop thinks
  EXPECT_EQ(in_table(0), (std::set<std::uint32_t>{0}));

  backends_[1].in_flight = 0;
  ASSERT_TRUE(publish({{0, 1, {}}}).ok());
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
  EXPECT_EQ(spell(changes->routes),
            (std::vector<std::string>{"127.1.0.2:80 service 1", "127.0.0.1:1 backend 1"}));
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
  totals_[0].connects = 9;
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {})}).ok());
  clock_.advance(2s);
  ASSERT_TRUE(publish({}).ok());
  auto changes = configure({service("a", "127.1.0.1:80", {"127.0.0.1:2"})});
  ASSERT_TRUE(changes.ok());
  EXPECT_EQ(changes->new_backends, (std::vector<std::uint32_t>{0}));
  EXPECT_EQ(totals_[0].connects, 0U);
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

TEST_F(TablesTest, BackupBackendsAreAPoolWithoutAnAddress) {
  ServiceSpec spec = service("a", "127.1.0.1:80", {"127.0.0.1:1"});
  spec.backup_backends.push_back({Endpoint::parse("127.0.0.1:2").value(), false});
  auto changes = configure({spec});
  ASSERT_TRUE(changes.ok());
  EXPECT_EQ(spell(changes->routes),
            (std::vector<std::string>{"127.1.0.1:80 service 0", "127.0.0.1:1 backend 0",
                                      "127.0.0.1:2 backend 1"}));
  EXPECT_EQ(pools_[0].backup, 1U);
  EXPECT_STREQ(pools_[1].name, "a.backup");
  EXPECT_TRUE(decode(pools_[1], 1).is_backup());
  EXPECT_EQ(in_table(1), (std::set<std::uint32_t>{1}));

  Tables next(memory());  // found again by the service it belongs to
  changes = next.configure({spec}, clock_.now());
  ASSERT_TRUE(changes.ok());
  EXPECT_TRUE(changes->new_backends.empty());
  EXPECT_EQ(pools_[0].backup, 1U);

  spec.backup_backends.clear();
  ASSERT_TRUE(next.configure({spec}, clock_.now()).ok());
  EXPECT_EQ(pools_[0].backup, WEIR_NO_POOL);
  EXPECT_EQ(backends_[1].state, weir_u32{WEIR_BE_DRAINING});
}

TEST_F(TablesTest, RecordOfABackupPoolMayBecomeAnotherPool) {
  ServiceSpec spec = service("a", "127.1.0.1:80", {"127.0.0.1:1"});
  spec.backup_backends.push_back({Endpoint::parse("127.0.0.1:2").value(), false});
  ASSERT_TRUE(configure({spec}).ok());
  backends_[0].in_flight = 1;  // keeps pool 0, which still names pool 1 as its backup
  ASSERT_TRUE(configure({}).ok());
  clock_.advance(2s);
  ASSERT_TRUE(publish({}).ok());
  ASSERT_EQ(pools_[1].in_use, 0U);
  ASSERT_TRUE(configure({service("b", "127.1.0.2:80", {"127.0.0.1:3"})}).ok());
  ASSERT_STREQ(pools_[1].name, "b");
  ASSERT_TRUE(configure({service("b", "127.1.0.2:80", {"127.0.0.1:3"}), spec}).ok());
  EXPECT_STREQ(pools_[1].name, "b");
  EXPECT_STREQ(pools_[pools_[0].backup].name, "a.backup");
}

TEST_F(TablesTest, PublishCountsMembersAndThoseOfThemThatAreOpen) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"})}).ok());
  EXPECT_EQ(pools_[0].members, 2U);
  weir_breaker open{};
  open.state = WEIR_BREAKER_OPEN;
  backends_[1].breaker = weir_breaker_pack(&open);
  ASSERT_TRUE(publish({{0, 1, {}}, {1, 1, {}}}).ok());
  EXPECT_EQ(pools_[0].open, 0U);  // the same members: the kernel's own count stands
  ASSERT_TRUE(publish({{1, 1, {}}}).ok());
  EXPECT_EQ(pools_[0].members, 1U);
  EXPECT_EQ(pools_[0].open, 1U);
}

TEST_F(TablesTest, WritesLatencyAndRifLimitInTheKernelsUnits) {
  ASSERT_TRUE(configure({service("a", "127.1.0.1:80", {"127.0.0.1:1", "127.0.0.1:2"})}).ok());
  ASSERT_TRUE(publish({{0, 1, 1500us}, {1, 1, 0us}}).ok());
  EXPECT_EQ(backends_[0].latency_us, 1500U);
  EXPECT_EQ(backends_[1].latency_us, 1U);  // measured, if next to nothing: not "unknown"
  ASSERT_TRUE(publish({{0, 1, {}}, {1, 1, {}}}).ok());
  EXPECT_EQ(backends_[0].latency_us, 0U);
  ASSERT_TRUE(tables_.set_rif_limits({{0, 2.5}}).ok());
  EXPECT_EQ(pools_[0].rif_limit, 10U);
  EXPECT_FALSE(tables_.set_rif_limits({{0, 1}, {1, 1}}).ok());
  EXPECT_FALSE(tables_.set_rif_limits({{0, -1}}).ok());
  EXPECT_EQ(pools_[0].rif_limit, 10U);
}

TEST_F(TablesTest, ServiceAddressIsSteeredEvenIfItIsABackendElsewhere) {
  auto changes = configure({service("a", "127.1.0.1:80", {"127.1.0.2:80"}),
                            service("b", "127.1.0.2:80", {"127.0.0.1:1"})});
  ASSERT_TRUE(changes.ok());
  EXPECT_EQ(spell(changes->routes),
            (std::vector<std::string>{"127.1.0.1:80 service 0", "127.1.0.2:80 service 1",
                                      "127.0.0.1:1 backend 1"}));
}

}  // namespace
}  // namespace weir::kernel
