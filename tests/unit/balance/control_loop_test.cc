// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/control_loop.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <sstream>
#include <thread>

#include "agent/balance/composite.h"
#include "agent/config/config_loader.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/fixtures/fake_maps.h"

namespace weir::balance {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

ControlOptions options() {
  ControlOptions options;
  options.proc = "/nonexistent";  // the CPU of the machine that runs the test is of no interest
  return options;
}

/// Of a service "chat" whose weights are worked out.
ControlOptions composite() {
  ControlOptions options = balance::options();
  options.composite = {"chat"};
  return options;
}

class ControlLoopTest : public testing::Test {
 protected:
  ControlLoopTest() {
    maps.add_service("chat", "127.111.0.10:80", {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"});
    const auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(log);
    const auto logger = std::make_shared<spdlog::logger>("test", sink);
    logger->set_pattern("%v");
    spdlog::set_default_logger(logger);
    restart(options());
  }
  ~ControlLoopTest() override { spdlog::set_default_logger(previous); }

  void restart(ControlOptions with) {
    loop = std::move(ControlLoop::create(std::move(with), maps, maps, clock)).value();
  }
  /// One tick, one second after the last.
  const ControlReport& tick() {
    clock.advance(seconds(1));
    const Status status = loop->tick();
    EXPECT_TRUE(status.ok());
    report = loop->latest();
    return *report;
  }
  /// What was logged since the last call.
  std::string logged() {
    const std::string text = log.str();
    log.str("");
    return text;
  }

  FakeClock clock;
  FakeMaps maps;
  std::ostringstream log;
  std::shared_ptr<spdlog::logger> previous = spdlog::default_logger();
  std::unique_ptr<ControlLoop> loop;
  std::shared_ptr<const ControlReport> report;
};

TEST_F(ControlLoopTest, UnmeasuredBackendsShareEqually) {
  EXPECT_EQ(loop->latest(), nullptr);
  for (const auto& backend : tick().backends) {
    EXPECT_DOUBLE_EQ(backend.weight, 1);
    EXPECT_DOUBLE_EQ(backend.share, 1.0 / 3);
    EXPECT_EQ(backend.ttfb_ms, std::nullopt);
  }
  ASSERT_EQ(maps.published.size(), 1U);
  ASSERT_EQ(maps.published[0].size(), 3U);
  EXPECT_EQ(maps.published[0][2].index, 2U);
  EXPECT_DOUBLE_EQ(maps.published[0][2].weight, 1);
  EXPECT_EQ(maps.published[0][2].latency, std::nullopt);
}

TEST_F(ControlLoopTest, ConfiguredWeightsAreByPoolAndAddress) {
  maps.add_backup(0, {"127.0.0.1:2"});
  auto with = options();
  with.base_weights[{"chat", endpoint_of("127.0.0.1:2")}] = 2;
  with.base_weights[{"chat.backup", endpoint_of("127.0.0.1:2")}] = 7;
  with.base_weights[{"other", endpoint_of("127.0.0.1:1")}] = 50;
  restart(with);
  tick();
  EXPECT_DOUBLE_EQ(report->backends[0].weight, 1);
  EXPECT_DOUBLE_EQ(report->backends[0].share, 0.25);
  EXPECT_DOUBLE_EQ(report->backends[1].weight, 2);
  EXPECT_DOUBLE_EQ(report->backends[1].share, 0.5);
  EXPECT_DOUBLE_EQ(report->backends[3].weight, 7);
  EXPECT_DOUBLE_EQ(report->backends[3].share, 1);
}

// The kernel judges them at every connect: the same signal must not move the weight as well.
TEST_F(ControlLoopTest, NeitherLatencyNorLoadNorHealthMovesAConfiguredWeight) {
  maps.answer(0, milliseconds(500), 10);
  maps.answer(1, milliseconds(5), 10);
  maps.backend(1).in_flight = 40;
  maps.backend(1).waiting = 40;
  maps.fail_connects(2, 3);
  maps.open(2, seconds(5));
  for (const auto& backend : tick().backends) EXPECT_DOUBLE_EQ(backend.weight, 1);
  for (const auto& decision : maps.published.back()) EXPECT_DOUBLE_EQ(decision.weight, 1);
}

TEST_F(ControlLoopTest, LatencyIsPublishedWhateverThePolicy) {
  maps.answer(0, milliseconds(9), 10);
  maps.answer(1, std::chrono::nanoseconds(300), 1);
  tick();
  EXPECT_EQ(maps.published.back()[0].latency, milliseconds(9));
  EXPECT_EQ(maps.published.back()[1].latency, std::chrono::microseconds(1)) << "known, not 0";
  EXPECT_EQ(maps.published.back()[2].latency, std::nullopt);
  restart(composite());
  tick();
  EXPECT_EQ(maps.published.back()[0].latency, milliseconds(9));
}

TEST_F(ControlLoopTest, Trap21ABackendThatFailsFastLooksSlow) {
  for (std::size_t i = 0; i < 3; ++i) maps.answer(i, milliseconds(9), 10);
  tick();
  maps.fail_connects(0, 1);
  maps.answer(1, milliseconds(9), 1);
  tick();
  EXPECT_GT(*maps.published.back()[0].latency, milliseconds(400));  // 5 s, a tenth of tau old
  EXPECT_EQ(maps.published.back()[1].latency, milliseconds(9));
}

TEST_F(ControlLoopTest, CompositeSlowBackendLosesShareTickByTickAndGetsItBack) {
  restart(composite());
  for (std::size_t i = 0; i < 3; ++i) maps.answer(i, milliseconds(9), 10);
  tick();
  double last = report->backends[0].share;
  EXPECT_DOUBLE_EQ(last, 1.0 / 3);
  const auto round = [&](milliseconds slow) {
    maps.answer(0, slow, 1);
    maps.answer(1, milliseconds(9), 10);
    maps.answer(2, milliseconds(9), 10);
    return tick().backends[0].share;
  };
  for (int i = 0; i < 20; ++i) {
    const double share = round(milliseconds(99));
    EXPECT_LT(share, last) << "tick " << i;
    last = share;
  }
  // Two time constants: 9 + 90 * (1 - e^-2) = 86.8 ms against 9 ms.
  EXPECT_NEAR(*report->backends[0].ttfb_ms, 86.82, 0.01);
  EXPECT_NEAR(last, (1 / 87.82) / (1 / 87.82 + 2 / 10.0), 0.0001);
  for (int i = 0; i < 20; ++i) {
    const double share = round(milliseconds(9));
    EXPECT_GT(share, last) << "tick " << i;
    last = share;
  }
}

TEST_F(ControlLoopTest, CompositeFeelsWaitingRequestsBeforeTheyAreAnswered) {
  restart(composite());
  for (std::size_t i = 0; i < 3; ++i) maps.answer(i, milliseconds(9), 10);
  maps.backend(0).waiting = 3;  // even where in_flight lost sight of them
  EXPECT_NEAR(tick().backends[0].share, (1.0 / 4) / (1.0 / 4 + 2), 1e-9);
  maps.backend(0).in_flight = 9;
  EXPECT_NEAR(tick().backends[0].share, (1.0 / 10) / (1.0 / 10 + 2), 1e-9);
}

TEST_F(ControlLoopTest, CompositeWeighsABackupPoolLikeItsService) {
  maps.add_backup(0, {"127.0.0.1:8", "127.0.0.1:9"});
  auto with = options();
  with.composite = {"chat", "chat.backup"};
  restart(with);
  maps.answer(3, milliseconds(99), 10);
  maps.answer(4, milliseconds(9), 10);
  EXPECT_NEAR(tick().backends[3].share, 1.0 / 11, 1e-9);
}

TEST_F(ControlLoopTest, StaleLatencyIsKept) {
  restart(composite());
  maps.answer(0, milliseconds(99), 10);
  maps.answer(1, milliseconds(9), 10);
  maps.answer(2, milliseconds(9), 10);
  const double share = tick().backends[0].share;
  for (int i = 0; i < 100; ++i) tick();
  EXPECT_DOUBLE_EQ(report->backends[0].share, share);
  EXPECT_DOUBLE_EQ(*report->backends[0].ttfb_ms, 99);
}

TEST_F(ControlLoopTest, SaysWhatTheKernelDidWithABreaker) {
  tick();
  logged();
  maps.fail_connects(0, 3);
  maps.open(0, seconds(5));
  EXPECT_TRUE(loop->health_tick().ok());
  const std::string line =
      "breaker service=chat backend=127.0.0.1:1 from=closed to=open level=0 "
      "consecutive_failures=3 open_ms=5000\n";
  EXPECT_EQ(logged(), line);
  tick();
  EXPECT_EQ(logged(), "") << "said once, by whichever tick comes first";
}

TEST_F(ControlLoopTest, AnOpeningBreakerEndsIdleConnectionsWhereThatIsWanted) {
  maps.add_service("embed", "127.111.0.11:80", {"127.0.0.1:1", "127.0.0.1:2"});
  maps.service(1).end_idle_when_open = true;
  tick();
  maps.open(0, seconds(5));
  maps.open(3, seconds(5));
  EXPECT_TRUE(loop->health_tick().ok());
  EXPECT_EQ(maps.idle_ended, std::vector<std::uint32_t>{3});
  EXPECT_NE(
      logged().find("idle connections ended service=embed backend=127.0.0.1:1 connections=4\n"),
      std::string::npos);
  tick();
  maps.half_open(3);
  tick();
  EXPECT_EQ(maps.idle_ended.size(), 1U) << "once for each opening";
  maps.end_idle_error = make_error(Code::kUnsupported, "no bpf_sock_destroy");
  maps.open(3, seconds(5));
  tick();
  EXPECT_NE(logged().find("idle connections not ended service=embed backend=127.0.0.1:1 "
                          "error=\"no bpf_sock_destroy\"\n"),
            std::string::npos);
}

TEST_F(ControlLoopTest, BothTicksKeepHouse) {
  tick();
  EXPECT_TRUE(loop->health_tick().ok());
  EXPECT_EQ(maps.housekeepings, 2U);
  maps.housekeeping_error = make_error(Code::kIo, "no iterator");
  tick();
  EXPECT_EQ(maps.published.size(), 2U) << "weights are published all the same";
  EXPECT_TRUE(loop->health_tick().ok());
  EXPECT_EQ(logged(),
            "housekeeping failed error=\"no iterator\"; the kernel goes on as it was told last\n");
}

TEST_F(ControlLoopTest, PanicIsSaidAndReported) {
  for (std::size_t i = 0; i < 3; ++i) maps.open(i, seconds(5));
  EXPECT_EQ(tick().services_in_panic, std::vector<std::string>{"chat"});
  EXPECT_NE(logged().find("panic service=chat on=true open=3 backends=3\n"), std::string::npos);
  for (std::size_t i = 0; i < 3; ++i) maps.close(i);
  EXPECT_TRUE(tick().services_in_panic.empty());
  EXPECT_NE(logged().find("panic service=chat on=false open=0 backends=3\n"), std::string::npos);
}

TEST_F(ControlLoopTest, BothTicksSetTheLimitsOfLoad) {
  maps.add_backup(0, {"127.0.0.1:9"});
  maps.backend(0).waiting = 4;
  maps.backend(1).waiting = 4;
  tick();
  EXPECT_DOUBLE_EQ(maps.service(0).rif_limit, 5);
  EXPECT_DOUBLE_EQ(maps.service(1).rif_limit, 2);
  EXPECT_EQ(maps.gauge_readings, 0U);
  maps.backend(1).waiting = 12;
  maps.backend(2).waiting = 8;
  EXPECT_TRUE(loop->health_tick().ok());
  EXPECT_DOUBLE_EQ(maps.service(0).rif_limit, 10);
  EXPECT_EQ(maps.gauge_readings, 1U) << "ten times a second, so without histograms";
  EXPECT_EQ(maps.published.size(), 1U);
}

TEST_F(ControlLoopTest, DrainingBackendsAreLeftAlone) {
  maps.backend(1).state = WEIR_BE_DRAINING;
  tick();
  ASSERT_EQ(maps.published.back().size(), 2U);
  EXPECT_EQ(maps.published.back()[0].index, 0U);
  EXPECT_EQ(maps.published.back()[1].index, 2U);
  EXPECT_DOUBLE_EQ(report->backends[1].share, 0.5);
}

TEST_F(ControlLoopTest, ConfiguredWeightsAreNoNews) {
  tick();
  EXPECT_EQ(logged(), "");
}

TEST_F(ControlLoopTest, SharesAreLoggedOnceAndThenWhenTheyMoveByATenth) {
  restart(composite());
  tick();
  EXPECT_EQ(logged(),
            "weight service=chat backend=127.0.0.1:1 weight=1 share=0.333 ttfb_ms=unknown "
            "in_flight=0\n"
            "weight service=chat backend=127.0.0.1:2 weight=1 share=0.333 ttfb_ms=unknown "
            "in_flight=0\n"
            "weight service=chat backend=127.0.0.1:3 weight=1 share=0.333 ttfb_ms=unknown "
            "in_flight=0\n");
  // 1/19.9 against 2/19: shares 0.323, 0.338, 0.338; all within a tenth.
  maps.answer(0, std::chrono::microseconds(18900), 1);
  maps.answer(1, milliseconds(18), 1);
  maps.answer(2, milliseconds(18), 1);
  tick();
  EXPECT_EQ(logged(), "");
  maps.backend(0).in_flight = 1;
  tick();
  EXPECT_NE(logged().find("weight service=chat backend=127.0.0.1:1 weight=0.578 share=0.193 "
                          "ttfb_ms=18.9 in_flight=1\n"),
            std::string::npos);
}

TEST_F(ControlLoopTest, AFailedReadOrPublishChangesNothing) {
  tick();
  const auto before = loop->latest();
  maps.read_error = make_error(Code::kIo, "no map");
  Status status = loop->tick();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "reading the maps: no map");
  EXPECT_EQ(maps.published.size(), 1U);
  status = loop->health_tick();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "reading the gauges: no map");
  maps.read_error.reset();
  maps.limit_error = make_error(Code::kIo, "gone");
  status = loop->tick();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "writing the limits of load: gone");
  EXPECT_EQ(maps.published.size(), 1U);
  maps.limit_error.reset();
  maps.publish_error = make_error(Code::kIo, "full");
  status = loop->tick();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "publishing weights: full");
  EXPECT_EQ(loop->latest(), before);
}

TEST_F(ControlLoopTest, RunTicksEachPeriod) {
  auto with = options();
  with.tick = milliseconds(40);
  with.health_tick = milliseconds(10);
  restart(with);
  std::stop_source stop;
  std::jthread thread([&] { loop->run(stop.get_token()); });
  while (loop->latest() == nullptr) std::this_thread::yield();
  stop.request_stop();
  thread.join();
  EXPECT_GE(maps.published.size(), 1U);
  // Three between two ticks, and at most three after the last one.
  EXPECT_GE(maps.gauge_readings, 3 * maps.published.size());
  EXPECT_LE(maps.gauge_readings, 3 * maps.published.size() + 3);
}

/// Fails to write limits and counts how often it was asked to.
class BrokenWriter final : public kernel::MapWriter {
 public:
  Status publish(const std::vector<kernel::BackendDecision>&) override { return {}; }
  Status set_rif_limits(const std::vector<kernel::PoolLimit>&) override {
    ++writings;
    return make_error(Code::kIo, "gone");
  }
  Status open_breaker(std::uint32_t) override { return {}; }
  Result<std::size_t> end_idle_connections(std::uint32_t) override { return std::size_t{0}; }
  Status housekeeping(TimePoint) override { return {}; }

  std::atomic<int> writings = 0;
};

TEST_F(ControlLoopTest, RunSaysOnceWhatFails) {
  auto with = options();
  with.tick = std::chrono::hours(1);
  with.health_tick = milliseconds(1);
  BrokenWriter writer;
  loop = std::move(ControlLoop::create(std::move(with), maps, writer, clock)).value();
  std::stop_source stop;
  std::jthread thread([&] { loop->run(stop.get_token()); });
  while (writer.writings < 3) std::this_thread::yield();
  stop.request_stop();
  thread.join();
  EXPECT_EQ(
      logged(),
      "health failed error=\"writing the limits of load: gone\"; the kernel goes on as it was "
      "told last\n");
}

TEST_F(ControlLoopTest, RunStopsWhileItWaits) {
  auto with = options();
  with.tick = std::chrono::hours(1);
  restart(with);
  std::stop_source stop;
  std::jthread thread([&] { loop->run(stop.get_token()); });
  stop.request_stop();
  thread.join();  // an hour early, or this test hangs
  EXPECT_EQ(maps.published.size(), 0U);
}

TEST_F(ControlLoopTest, LocalBackendFeelsTheHostCpu) {
  // Two ticks over the real /proc: whatever the load, it is known at the second and only local.
  auto with = options();
  with.proc = "/proc";
  with.composite = {"chat"};
  restart(with);
  maps.backend(0).is_local = true;
  EXPECT_EQ(tick().host_cpu_percent, std::nullopt);
  const auto start = std::chrono::steady_clock::now();
  while (!report->host_cpu_percent && std::chrono::steady_clock::now() - start < seconds(5)) tick();
  ASSERT_TRUE(report->host_cpu_percent);
  const double idle = std::max(1 - *report->host_cpu_percent / 100, kCpuFloorRatio);
  EXPECT_DOUBLE_EQ(report->backends[0].weight / report->backends[1].weight, idle);
  EXPECT_DOUBLE_EQ(report->backends[2].weight / report->backends[1].weight, 1);
}

TEST(ControlLoopOptions, AreCheckedByName) {
  FakeClock clock;
  FakeMaps maps;
  const auto message = [&](ControlOptions with) {
    auto loop = ControlLoop::create(std::move(with), maps, maps, clock);
    return loop ? std::string("accepted") : loop.error().message;
  };
  EXPECT_EQ(message(options()), "accepted");
  auto with = options();
  with.tick = Duration::zero();
  EXPECT_EQ(message(with), "ControlOptions::tick must be > 0");
  with = options();
  with.health_tick = milliseconds(-1);
  EXPECT_EQ(message(with), "ControlOptions::health_tick must be > 0");
  with = options();
  with.base_weights[{"chat", {}}] = 0;
  EXPECT_EQ(message(with), "ControlOptions::base_weights must be > 0");
}

TEST(ControlLoopOptions, ComeFromTheConfiguration) {
  const auto config = config::parse_config(R"(
services:
  - {name: a, address: "127.111.0.1:80", policy: composite,
     backends: [{local: true, weight: 3}, {address: "127.0.0.1:9"}],
     backup_backends: [{address: "127.0.0.1:10", weight: 5}]}
  - {name: b, address: "127.111.0.2:80", backends: [{address: "127.0.0.1:9", weight: 2}]}
control: {tick_ms: 250, latency_tau_ms: 700}
)",
                                           "weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto options = control_options(*config, endpoint_of("127.0.0.1:8080"));
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->tick, milliseconds(250));
  EXPECT_EQ(options->health_tick, milliseconds(100));
  EXPECT_EQ(options->latency_tau, milliseconds(700));
  const std::map<health::BackendKey, double> weights = {
      {{"a", endpoint_of("127.0.0.1:8080")}, 3},
      {{"a", endpoint_of("127.0.0.1:9")}, 1},
      {{"a.backup", endpoint_of("127.0.0.1:10")}, 5},
      {{"b", endpoint_of("127.0.0.1:9")}, 2}};
  EXPECT_EQ(options->base_weights, weights);
  EXPECT_EQ(options->composite, (std::set<std::string>{"a", "a.backup"}));
}

}  // namespace
}  // namespace weir::balance
