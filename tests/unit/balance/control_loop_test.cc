// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/control_loop.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>
#include <thread>

#include "agent/balance/composite.h"
#include "agent/config/config_loader.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/fixtures/fake_maps.h"

namespace weir::balance {
namespace {

using health::BreakerState;
using std::chrono::milliseconds;
using std::chrono::seconds;

ControlOptions options() {
  ControlOptions options;
  options.proc = "/nonexistent";  // the CPU of the machine that runs the test is of no interest
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
    loop = std::move(ControlLoop::create(std::move(with), maps, maps, clock, [] {
             return 0.0;
           })).value();
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
    EXPECT_EQ(backend.state, WEIR_BE_ACTIVE);
  }
  ASSERT_EQ(maps.published.size(), 1U);
  ASSERT_EQ(maps.published[0].size(), 3U);
  EXPECT_EQ(maps.published[0][2].index, 2U);
  EXPECT_DOUBLE_EQ(maps.published[0][2].weight, 1);
}

TEST_F(ControlLoopTest, BaseWeightsAreByServiceAndAddress) {
  auto with = options();
  with.base_weights[{"chat", endpoint_of("127.0.0.1:2")}] = 2;
  with.base_weights[{"other", endpoint_of("127.0.0.1:1")}] = 50;
  restart(with);
  EXPECT_DOUBLE_EQ(tick().backends[0].share, 0.25);
  EXPECT_DOUBLE_EQ(report->backends[1].share, 0.5);
}

TEST_F(ControlLoopTest, SlowBackendLosesShareTickByTickAndGetsItBack) {
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

TEST_F(ControlLoopTest, WaitingRequestsAreFeltBeforeTheyAreAnswered) {
  for (std::size_t i = 0; i < 3; ++i) maps.answer(i, milliseconds(9), 10);
  maps.backend(0).waiting = 3;  // even where in_flight lost sight of them
  EXPECT_NEAR(tick().backends[0].share, (1.0 / 4) / (1.0 / 4 + 2), 1e-9);
  maps.backend(0).in_flight = 9;
  EXPECT_NEAR(tick().backends[0].share, (1.0 / 10) / (1.0 / 10 + 2), 1e-9);
}

TEST_F(ControlLoopTest, StaleLatencyIsKept) {
  maps.answer(0, milliseconds(99), 10);
  maps.answer(1, milliseconds(9), 10);
  maps.answer(2, milliseconds(9), 10);
  const double share = tick().backends[0].share;
  for (int i = 0; i < 100; ++i) tick();
  EXPECT_DOUBLE_EQ(report->backends[0].share, share);
  EXPECT_DOUBLE_EQ(*report->backends[0].ttfb_ms, 99);
}

TEST_F(ControlLoopTest, FailingBackendIsOpenedTriedAndClosed) {
  tick();
  logged();
  maps.fail_connects(0, 3);
  EXPECT_EQ(tick().backends[0].state, WEIR_BE_OPEN);
  EXPECT_EQ(report->backends[0].share, 0);
  EXPECT_DOUBLE_EQ(report->backends[1].share, 0.5);
  EXPECT_DOUBLE_EQ(report->backends[1].weight, 1);
  EXPECT_EQ(maps.published.back()[0].weight, 0);
  EXPECT_EQ(logged(),
            "breaker service=chat backend=127.0.0.1:1 from=closed to=open "
            "consecutive_failures=3 open_ms=5000\n"
            "weight service=chat backend=127.0.0.1:1 weight=0 share=0 ttfb_ms=unknown "
            "in_flight=0\n"
            "weight service=chat backend=127.0.0.1:2 weight=1 share=0.5 ttfb_ms=unknown "
            "in_flight=0\n"
            "weight service=chat backend=127.0.0.1:3 weight=1 share=0.5 ttfb_ms=unknown "
            "in_flight=0\n");

  clock.advance(seconds(4));
  EXPECT_EQ(tick().backends[0].breaker, BreakerState::kHalfOpen);
  EXPECT_EQ(report->backends[0].state, WEIR_BE_ACTIVE);
  EXPECT_NEAR(report->backends[0].share, 0.1 / 2.1, 1e-12);
  maps.establish(0);
  EXPECT_EQ(tick().backends[0].breaker, BreakerState::kClosed);
  EXPECT_DOUBLE_EQ(report->backends[0].share, 1.0 / 3);
}

TEST_F(ControlLoopTest, AllDownIsPanicAndEverybodyIsUsed) {
  for (std::size_t i = 0; i < 3; ++i) maps.fail_connects(i, 3);
  for (const auto& backend : tick().backends) {
    EXPECT_EQ(backend.breaker, BreakerState::kOpen);
    EXPECT_EQ(backend.state, WEIR_BE_ACTIVE);
    EXPECT_DOUBLE_EQ(backend.share, 1.0 / 3);
  }
  EXPECT_EQ(report->services_in_panic, std::vector<std::string>{"chat"});
  EXPECT_NE(logged().find("panic service=chat on=true usable=0 backends=3\n"), std::string::npos);
}

TEST_F(ControlLoopTest, AllDownIsAnEmptyPoolForAServiceThatRefuses) {
  auto with = options();
  with.health.never_panic = {"chat"};
  restart(with);
  for (std::size_t i = 0; i < 3; ++i) maps.fail_connects(i, 3);
  for (const auto& backend : tick().backends) {
    EXPECT_EQ(backend.state, WEIR_BE_OPEN);
    EXPECT_EQ(backend.weight, 0);
    EXPECT_EQ(backend.share, 0);
  }
  EXPECT_EQ(maps.published.back().size(), 3U);
}

TEST_F(ControlLoopTest, DrainingBackendsAreLeftAlone) {
  maps.backend(1).state = WEIR_BE_DRAINING;
  tick();
  ASSERT_EQ(maps.published.back().size(), 2U);
  EXPECT_EQ(maps.published.back()[0].index, 0U);
  EXPECT_EQ(maps.published.back()[1].index, 2U);
  EXPECT_DOUBLE_EQ(report->backends[1].share, 0.5);
}

TEST_F(ControlLoopTest, SharesAreLoggedOnceAndThenWhenTheyMoveByATenth) {
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
  maps.read_error.reset();
  maps.publish_error = make_error(Code::kIo, "full");
  status = loop->tick();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().message, "publishing weights: full");
  EXPECT_EQ(loop->latest(), before);
}

TEST_F(ControlLoopTest, RunTicksEachPeriod) {
  auto with = options();
  with.tick = std::chrono::milliseconds(100);
  restart(with);
  std::stop_source stop;
  std::jthread thread([&] { loop->run(stop.get_token()); });
  while (loop->latest() == nullptr) std::this_thread::yield();
  stop.request_stop();
  thread.join();
  EXPECT_GE(maps.published.size(), 1U);
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
    auto loop = ControlLoop::create(std::move(with), maps, maps, clock, [] { return 0.0; });
    return loop ? std::string("accepted") : loop.error().message;
  };
  EXPECT_EQ(message(options()), "accepted");
  auto with = options();
  with.tick = Duration::zero();
  EXPECT_EQ(message(with), "ControlOptions::tick must be > 0");
  with = options();
  with.health.breaker.max_open = milliseconds(1);
  EXPECT_EQ(message(with), "ControlOptions::health.breaker.max_open must be >= open");
  with = options();
  with.base_weights[{"chat", {}}] = 0;
  EXPECT_EQ(message(with), "ControlOptions::base_weights must be > 0");
}

TEST(ControlLoopOptions, ComeFromTheConfiguration) {
  const auto config = config::parse_config(R"(
services:
  - {name: a, address: "127.111.0.1:80", when_empty: refuse,
     backends: [{local: true, weight: 3}, {address: "127.0.0.1:9"}]}
control: {tick_ms: 250, latency_tau_ms: 700, open_after_failures: 4, open_ms: 300, max_open_ms: 900}
)",
                                           "weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto options = control_options(*config, endpoint_of("127.0.0.1:8080"));
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->tick, milliseconds(250));
  EXPECT_EQ(options->latency_tau, milliseconds(700));
  EXPECT_EQ(options->health.breaker.open_after_failures, 4U);
  EXPECT_EQ(options->health.breaker.open, milliseconds(300));
  EXPECT_EQ(options->health.breaker.max_open, milliseconds(900));
  EXPECT_EQ(options->health.never_panic, std::set<std::string>{"a"});
  const std::map<health::BackendKey, double> weights = {{{"a", endpoint_of("127.0.0.1:8080")}, 3},
                                                        {{"a", endpoint_of("127.0.0.1:9")}, 1}};
  EXPECT_EQ(options->base_weights, weights);
}

}  // namespace
}  // namespace weir::balance
