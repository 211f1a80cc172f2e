// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/backends.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

#include "tests/fixtures/fake_maps.h"

namespace weir::ctl {
namespace {

namespace json = boost::json;
using std::chrono::microseconds;
using std::chrono::milliseconds;

/// One service with an active, an open and a draining backend, and a backup that was never used.
FakeMaps example() {
  FakeMaps maps;
  maps.snapshot.taken = TimePoint(std::chrono::hours(1));
  maps.add_service("chat", "127.111.0.10:80", {"127.0.0.1:1", "[::1]:2", "127.0.0.1:3"});
  maps.snapshot.services[0].picks = 12;
  maps.snapshot.services[0].misses = 1;
  maps.snapshot.services[0].backups = 3;
  maps.snapshot.services[0].rif_limit = 2.5;
  maps.add_backup(0, {"127.0.0.1:9"});
  maps.service(1).policy = WEIR_POLICY_LEAST_INFLIGHT;
  maps.snapshot.stats[WEIR_STAT_STEERED] = 12;
  auto& active = maps.backend(0);
  active.is_local = true;
  active.weight = 1.5;
  active.latency = milliseconds(79);
  active.min_rtt = microseconds(31);
  active.in_flight = 4;
  active.fresh = 1;
  active.waiting = 1;
  active.streaming = 1;
  active.connects = 9;
  active.established = 8;
  active.connect_failures = 1;
  maps.answer(0, milliseconds(80), 7);
  maps.record(0, WEIR_HIST_CONNECT, microseconds(120), 8);
  maps.record(0, WEIR_HIST_DURATION, microseconds(90), 1);
  maps.record(0, WEIR_HIST_RTT, microseconds(30), 2);
  maps.record(0, WEIR_HIST_UNREAD, microseconds(10), 3);
  active.direct = 21;
  active.adopted = 22;
  active.refused = 23;
  active.timed_out = 24;
  active.resets = 25;
  active.closes = 26;
  active.mux = 27;
  active.idle_ended = 28;
  active.interim = 29;
  active.bytes_sent = 30;
  active.bytes_received = 31;
  active.retransmits = 32;
  active.rtos = 33;
  maps.half_open(1);
  maps.open(1, milliseconds(4200));
  maps.backend(1).weight = 1;
  maps.backend(2).state = WEIR_BE_DRAINING;
  maps.backend(2).weight = 4;  // left over: nobody is sent there any more
  return maps;
}

TEST(BackendsJson, HasTheDocumentedShape) {
  const auto maps = example();
  const auto document = json::parse(to_json(maps.snapshot));
  const auto& service = document.at("services").at(0);
  EXPECT_EQ(service.at("name"), "chat");
  EXPECT_EQ(service.at("address"), "127.111.0.10:80");
  EXPECT_EQ(service.at("policy"), "prequal");
  EXPECT_EQ(service.at("when_empty"), "pass");
  EXPECT_EQ(service.at("end_idle_when_open"), false);
  EXPECT_EQ(service.at("backup"), "chat.backup");
  EXPECT_EQ(service.at("rif_limit"), 2.5);
  EXPECT_EQ(service.at("members"), 3);
  EXPECT_EQ(service.at("open"), 1);
  EXPECT_EQ(service.at("panic"), false);
  EXPECT_EQ(service.at("picks"), 12);
  EXPECT_EQ(service.at("misses"), 1);
  EXPECT_EQ(service.at("panic_picks"), 0);
  EXPECT_EQ(service.at("backup_picks"), 3);
  ASSERT_EQ(service.at("backends").as_array().size(), 3U);
  json::value expected = json::parse(R"({
    "index": 0, "address": "127.0.0.1:1", "local": true, "state": "active",
    "breaker": {"state": "closed", "level": 0, "open_ms": null, "opens": 0},
    "weight": 1.5, "share": 1, "latency_us": 79000, "min_rtt_us": 31, "load": 2.25,
    "in_flight": 4, "fresh": 1, "waiting": 1, "streaming": 1, "connects": 9, "direct": 21,
    "adopted": 22, "established": 8, "connect_failures": 1, "consecutive_failures": 0,
    "refused": 23, "timed_out": 24, "resets": 25, "closes": 26, "mux": 27, "idle_ended": 28,
    "requests": 7, "interim": 29, "bytes_sent": 30, "bytes_received": 31, "retransmits": 32,
    "rtos": 33,
    "connect_us": {"count": 8, "mean": 120, "p50": 120, "p99": 120},
    "ttfb_us": {"count": 7, "mean": 80000, "p50": 80000, "p99": 80000, "buckets": []},
    "duration_us": {"count": 1, "mean": 90, "p50": 90, "p99": 90},
    "rtt_us": {"count": 2, "mean": 30, "p50": 30, "p99": 30},
    "unread_us": {"count": 3, "mean": 10, "p50": 10, "p99": 10}})");
  const std::int64_t upper = 81920;  // 5/4 of the octave from 65536 us
  expected.at("ttfb_us").at("buckets") = json::array{json::array{upper, 7, 560000000}};
  EXPECT_EQ(service.at("backends").at(0), expected) << service.at("backends").at(0);
}

TEST(BackendsJson, UnknownIsNullAndOnlyUsableBackendsHaveAShare) {
  const auto maps = example();
  const auto document = json::parse(to_json(maps.snapshot));
  const auto& open = document.at("services").at(0).at("backends").at(1);
  EXPECT_EQ(open.at("address"), "[::1]:2");
  EXPECT_EQ(open.at("state"), "active");
  EXPECT_EQ(open.at("breaker"),
            json::parse(R"({"state": "open", "level": 1, "open_ms": 4200, "opens": 1})"));
  EXPECT_EQ(open.at("share"), 0);
  EXPECT_EQ(open.at("latency_us"), nullptr);
  EXPECT_EQ(open.at("ttfb_us"),
            json::parse(R"({"count":0,"mean":null,"p50":null,"p99":null,"buckets":[]})"));
  const auto& draining = document.at("services").at(0).at("backends").at(2);
  EXPECT_EQ(draining.at("state"), "draining");
  EXPECT_EQ(draining.at("share"), 0);
  const auto& backup = document.at("services").at(1);
  EXPECT_EQ(backup.at("name"), "chat.backup");
  EXPECT_EQ(backup.at("address"), nullptr);
  EXPECT_EQ(backup.at("backup"), nullptr);
}

TEST(BackendsJson, InPanicOpenBackendsHaveTheirShare) {
  auto maps = example();
  maps.service(0).backup.reset();
  maps.open(0, std::chrono::seconds(5));
  const auto document = json::parse(to_json(maps.snapshot));
  const auto& service = document.at("services").at(0);
  EXPECT_EQ(service.at("panic"), true);
  EXPECT_EQ(service.at("backends").at(0).at("share"), 0.6);
  EXPECT_EQ(service.at("backends").at(1).at("share"), 0.4);
}

TEST(BackendsJson, ABackupPoolThatStandsInIsNoPanic) {
  auto maps = example();
  maps.open(0, std::chrono::seconds(5));
  const auto document = json::parse(to_json(maps.snapshot));
  const auto& service = document.at("services").at(0);
  EXPECT_EQ(service.at("panic"), false);
  EXPECT_EQ(service.at("backends").at(0).at("share"), 0);
  EXPECT_EQ(service.at("backends").at(1).at("share"), 0);
}

TEST(BackendsJson, NamesEveryKernelCounter) {
  const auto maps = example();
  const auto document = json::parse(to_json(maps.snapshot));
  const auto& stats = document.at("stats").as_object();
  EXPECT_EQ(stats.size(), static_cast<std::size_t>(WEIR_STAT_COUNT));
  EXPECT_EQ(stats.at("steered"), 12);
  EXPECT_EQ(stats.at("underflow_prevented"), 0);
}

TEST(BackendsText, IsATablePerPool) {
  const auto maps = example();
  EXPECT_EQ(to_text(maps.snapshot),
            "chat  127.111.0.10:80  prequal  hot above 2.5  picks 12  misses 1  from backup 3\n"
            "BACKEND              STATE              WEIGHT   SHARE  LOAD  IN-FLIGHT  CONN P5"
            "0  TTFB P50  TTFB P99  CONNECTS  FAILURES  RESETS  REQUESTS\n"
            "127.0.0.1:1 (local)  active                1.5  100.0%  2.25          4     120u"
            "s      80ms      80ms         9         1      25         7\n"
            "[::1]:2              open 4.2s level 1       1    0.0%     0          0         "
            "-         -         -         0         0       0         0\n"
            "127.0.0.1:3          draining                4    0.0%     0          0         "
            "-         -         -         0         0       0         0\n"
            "\n"
            "chat.backup  least_inflight\n"
            "BACKEND      STATE   WEIGHT  SHARE  LOAD  IN-FLIGHT  CONN P50  TTFB P50  TTFB P9"
            "9  CONNECTS  FAILURES  RESETS  REQUESTS\n"
            "127.0.0.1:9  active       0   0.0%     0          0         -         -         "
            "-         0         0       0         0\n");
}

TEST(BackendsText, SaysWhenAServiceIgnoresItsBreakers) {
  auto maps = example();
  maps.service(0).policy = WEIR_POLICY_P2C;
  maps.service(0).backup.reset();
  maps.service(0).panics = 8;
  const std::string text = to_text(maps.snapshot);
  EXPECT_EQ(text.substr(0, text.find('\n')),
            "chat  127.111.0.10:80  p2c  picks 12  misses 1  in panic 8");
}

TEST(BackendsText, SaysWhenThereIsNothing) {
  EXPECT_EQ(to_text(kernel::Snapshot{}), "no services are configured\n");
}

}  // namespace
}  // namespace weir::ctl
