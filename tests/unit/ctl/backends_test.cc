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

/// One service with an active, an open and a draining backend.
FakeMaps example() {
  FakeMaps maps;
  maps.add_service("chat", "127.111.0.10:80", {"127.0.0.1:1", "[::1]:2", "127.0.0.1:3"});
  maps.snapshot.services[0].picks = 12;
  maps.snapshot.services[0].misses = 1;
  maps.snapshot.stats[WEIR_STAT_STEERED] = 12;
  auto& active = maps.backend(0);
  active.is_local = true;
  active.weight = 1.5;
  active.in_flight = 2;
  active.waiting = 1;
  active.streaming = 1;
  active.connects = 9;
  active.established = 8;
  active.connect_failures = 1;
  maps.answer(0, milliseconds(80), 7);
  add_samples(active.connect_latency, microseconds(120), 8);
  maps.backend(1).state = WEIR_BE_OPEN;
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
  EXPECT_EQ(service.at("picks"), 12);
  EXPECT_EQ(service.at("misses"), 1);
  ASSERT_EQ(service.at("backends").as_array().size(), 3U);
  json::value expected = json::parse(R"({
    "index": 0, "address": "127.0.0.1:1", "local": true, "state": "active", "weight": 1.5,
    "share": 1, "in_flight": 2, "waiting": 1, "streaming": 1, "connects": 9, "established": 8,
    "connect_failures": 1, "requests": 7,
    "connect_us": {"count": 8, "mean": 120, "p50": 120, "p99": 120},
    "ttfb_us": {"count": 7, "mean": 80000, "p50": 80000, "p99": 80000, "buckets": []}})");
  const std::int64_t upper = 81920;  // 5/4 of the octave from 65536 us
  expected.at("ttfb_us").at("buckets") = json::array{json::array{upper, 7, 560000000}};
  EXPECT_EQ(service.at("backends").at(0), expected) << service.at("backends").at(0);
}

TEST(BackendsJson, UnknownIsNullAndOnlyActiveBackendsHaveAShare) {
  const auto maps = example();
  const auto document = json::parse(to_json(maps.snapshot));
  const auto& open = document.at("services").at(0).at("backends").at(1);
  EXPECT_EQ(open.at("address"), "[::1]:2");
  EXPECT_EQ(open.at("state"), "open");
  EXPECT_EQ(open.at("ttfb_us"),
            json::parse(R"({"count":0,"mean":null,"p50":null,"p99":null,"buckets":[]})"));
  const auto& draining = document.at("services").at(0).at("backends").at(2);
  EXPECT_EQ(draining.at("state"), "draining");
  EXPECT_EQ(draining.at("share"), 0);
}

TEST(BackendsJson, NamesEveryKernelCounter) {
  const auto maps = example();
  const auto document = json::parse(to_json(maps.snapshot));
  const auto& stats = document.at("stats").as_object();
  EXPECT_EQ(stats.size(), static_cast<std::size_t>(WEIR_STAT_COUNT));
  EXPECT_EQ(stats.at("steered"), 12);
  EXPECT_EQ(stats.at("underflow_prevented"), 0);
}

TEST(BackendsText, IsATablePerService) {
  const auto maps = example();
  EXPECT_EQ(
      to_text(maps.snapshot),
      "chat  127.111.0.10:80  picks 12  misses 1\n"
      "BACKEND              STATE     WEIGHT   SHARE  IN-FLIGHT  WAITING  CONN P50  CONN P99  "
      "TTFB P50  TTFB P99  CONNECTS  FAILURES  REQUESTS\n"
      "127.0.0.1:1 (local)  active       1.5  100.0%          2        1     120us     120us      "
      "80ms      80ms         9         1         7\n"
      "[::1]:2              open           0    0.0%          0        0         -         -      "
      "   -         -         0         0         0\n"
      "127.0.0.1:3          draining       4    0.0%          0        0         -         -      "
      "   -         -         0         0         0\n");
}

TEST(BackendsText, SaysWhenThereIsNothing) {
  EXPECT_EQ(to_text(kernel::Snapshot{}), "no services are configured\n");
}

}  // namespace
}  // namespace weir::ctl
