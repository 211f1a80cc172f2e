// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/decode.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include "bpf/lib/endpoint.bpf.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

Endpoint endpoint(std::string_view text) { return Endpoint::parse(text).value(); }

TEST(Decode, EndpointSurvivesTheRoundTrip) {
  for (const char* text : {"127.111.0.10:80", "[2001:db8::1]:65535"}) {
    EXPECT_EQ(decode(encode(endpoint(text))).to_string(), text);
  }
  EXPECT_EQ(encode(endpoint("1.2.3.4:5")).protocol, IPPROTO_TCP);
}

TEST(Decode, KernelAndUserSpaceBuildTheSameKey) {
  const weir_endpoint user = encode(endpoint("127.111.0.10:8080"));
  weir_endpoint kernel{};
  weir_set_endpoint(&kernel, 0, 0, WEIR_MAPPED_PREFIX, htonl(0x7f6f000a), 8080, IPPROTO_TCP);
  EXPECT_EQ(std::memcmp(&user, &kernel, sizeof(user)), 0);
  EXPECT_TRUE(weir_endpoint_is_v4(&user));
  const weir_endpoint v6 = encode(endpoint("[::1]:8080"));
  EXPECT_FALSE(weir_endpoint_is_v4(&v6));
  EXPECT_EQ(weir_ip_word(&v6, 3), htonl(1));
}

TEST(Decode, BackendCarriesEveryField) {
  weir_be record{};
  weir_total total{};
  record.address = encode(endpoint("10.0.0.1:9000"));
  record.pool = 3;
  record.state = WEIR_BE_DRAINING;
  record.weight_q16 = 98304;
  total.is_local = 1;
  record.in_flight = 1;
  record.waiting = 2;
  record.streaming = 3;
  total.consecutive_failures = 4;
  total.connects = 5;
  total.established = 6;
  total.connect_failures = 7;
  total.requests = 8;
  total.last_failure_ns = 9'000'000'000;

  const BackendReading reading = decode(record, total, 17);
  EXPECT_EQ(reading.index, 17U);
  EXPECT_EQ(reading.pool, 3U);
  EXPECT_EQ(reading.address, endpoint("10.0.0.1:9000"));
  EXPECT_EQ(reading.state, WEIR_BE_DRAINING);
  EXPECT_DOUBLE_EQ(reading.weight, 1.5);
  EXPECT_TRUE(reading.is_local);
  EXPECT_EQ(reading.in_flight, 1U);
  EXPECT_EQ(reading.waiting, 2U);
  EXPECT_EQ(reading.streaming, 3U);
  EXPECT_EQ(reading.consecutive_failures, 4U);
  EXPECT_EQ(reading.connects, 5U);
  EXPECT_EQ(reading.established, 6U);
  EXPECT_EQ(reading.connect_failures, 7U);
  EXPECT_EQ(reading.requests, 8U);
  EXPECT_EQ(reading.last_failure, TimePoint(9s));
}

TEST(Decode, PoolNameEndsAtTheFieldEvenWithoutTerminator) {
  weir_pool record{};
  std::memset(record.name, 'x', sizeof(record.name));
  record.picks = 11;
  record.misses = 12;
  const ServiceReading reading = decode(record, 5);
  EXPECT_EQ(reading.name, std::string(WEIR_NAME_LEN, 'x'));
  EXPECT_EQ(reading.pool, 5U);
  EXPECT_EQ(reading.picks, 11U);
  EXPECT_EQ(reading.misses, 12U);
}

TEST(Decode, WeightSaturates) {
  EXPECT_EQ(to_q16(1.0), 65536U);
  EXPECT_EQ(to_q16(0.0), 0U);
  EXPECT_EQ(to_q16(1e-9), 1U);
  EXPECT_EQ(to_q16(1e12), 0xffffffffU);
}

TEST(Decode, TimeSurvivesTheRoundTrip) {
  const TimePoint time{1234567890ns};
  EXPECT_EQ(to_kernel_ns(time), 1234567890U);
  EXPECT_EQ(from_kernel_ns(1234567890), time);
}

}  // namespace
}  // namespace weir::kernel
