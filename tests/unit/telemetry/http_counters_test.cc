// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/http_counters.h"

#include <gtest/gtest.h>

namespace weir::telemetry {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(HttpCounters, AddsUpThreads) {
  HttpCounters a(1);
  HttpCounters b(1);
  for (HttpCounters* counters : {&a, &b}) {
    counters->connection_opened();
    counters->request_started();
    counters->request_finished(0, 200, milliseconds(3));
  }
  b.request_started();
  b.connection_closed();
  b.refused(model::RefusalReason::kQueueFull);
  HttpReading reading;
  reading.routes.resize(1);
  a.add_to(reading);
  b.add_to(reading);
  EXPECT_EQ(reading.routes[0].by_code[0], 2U);
  EXPECT_EQ(reading.routes[0].duration_sum, milliseconds(6));
  EXPECT_EQ(reading.requests_in_flight, 1U);
  EXPECT_EQ(reading.connections, 1U);
  EXPECT_EQ(reading.connections_accepted, 2U);
  EXPECT_EQ(reading.refusals[0], 1U);
}

TEST(HttpCounters, BucketBoundsAreInclusive) {
  HttpCounters counters(1);
  for (const Duration duration :
       {Duration(0), Duration(milliseconds(1)), Duration(microseconds(1001)),
        Duration(milliseconds(131'072)), Duration(seconds(1000))}) {
    counters.request_finished(0, 200, duration);
  }
  HttpReading reading;
  reading.routes.resize(1);
  counters.add_to(reading);
  const auto& buckets = reading.routes[0].duration_buckets;
  EXPECT_EQ(buckets[0], 2U);
  EXPECT_EQ(buckets[1], 1U);
  EXPECT_EQ(buckets[kDurationBuckets - 1], 1U);
  EXPECT_EQ(buckets[kDurationBuckets], 1U);
}

TEST(HttpCounters, UnlistedStatusCountsAs500) {
  HttpCounters counters(1);
  counters.request_finished(0, 418, {});
  HttpReading reading;
  reading.routes.resize(1);
  counters.add_to(reading);
  for (std::size_t i = 0; i < kHttpCodes.size(); ++i) {
    EXPECT_EQ(reading.routes[0].by_code[i], kHttpCodes[i] == 500 ? 1U : 0U);
  }
}

}  // namespace
}  // namespace weir::telemetry
