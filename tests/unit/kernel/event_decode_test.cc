// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/event_decode.h"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "agent/kernel/decode.h"

namespace weir::kernel {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

/// Service "chat" with backends 0 and 1; record 2 is free.
class DecodeEvent : public testing::Test {
 protected:
  DecodeEvent() {
    std::strcpy(pools[1].name, "chat");
    const char* const addresses[] = {"127.0.0.1:9001", "[::1]:9002", "127.0.0.1:9003"};
    for (std::size_t i = 0; i < backends.size(); ++i) {
      backends[i].address = encode(Endpoint::parse(addresses[i]).value());
      backends[i].state = i < 2 ? WEIR_BE_ACTIVE : WEIR_BE_FREE;
    }
  }

  template <typename T>
  static T record_of(weir_event_kind kind) {
    T record{};
    record.head = {kind, 1, 0, 0, 5'000'000'123, 77};
    return record;
  }
  template <typename T>
  std::optional<Event> decode(const T& record) const {
    return decode_event(std::as_bytes(std::span(&record, 1)), {pools, backends});
  }
  template <typename E, typename T>
  E decode_as(const T& record) const {
    return std::get<E>(decode(record).value());
  }

  std::array<weir_pool, 2> pools{};
  std::array<weir_be, 3> backends{};
};

TEST_F(DecodeEvent, HeadHasNames) {
  auto record = record_of<weir_event_failure>(WEIR_EVENT_FAILURE);
  const auto head = decode_as<FailureEvent>(record).head;
  EXPECT_EQ(head.time, TimePoint(nanoseconds(5'000'000'123)));
  EXPECT_EQ(head.service, "chat");
  EXPECT_EQ(head.backend, "127.0.0.1:9001");
  EXPECT_EQ(head.cookie, 77U);
  record.head.backend = WEIR_NO_BACKEND;
  EXPECT_EQ(decode_as<FailureEvent>(record).head.backend, std::nullopt);
}

TEST_F(DecodeEvent, WhatHasNoNameHasItsNumber) {
  auto record = record_of<weir_event_failure>(WEIR_EVENT_FAILURE);
  record.head.backend = 2;  // freed between the event and its reading
  EXPECT_EQ(decode_as<FailureEvent>(record).head.backend, "#2");
  record.head.backend = 3;  // beyond the map
  record.head.pool = 0;     // without a name
  EXPECT_EQ(decode_as<FailureEvent>(record).head.backend, "#3");
  EXPECT_EQ(decode_as<FailureEvent>(record).head.service, "#0");
  record.head.pool = 9;
  EXPECT_EQ(decode_as<FailureEvent>(record).head.service, "#9");
}

TEST_F(DecodeEvent, CloseCarriesEveryField) {
  auto record = record_of<weir_event_close>(WEIR_EVENT_CLOSE);
  record.open_ns = 1'500'000;
  record.bytes_sent = 1ULL << 40;
  record.bytes_received = 3;
  record.requests = 2;
  record.retransmits = 4;
  record.min_rtt_us = 45;
  record.error = ECONNRESET;
  record.flags = WEIR_SK_TLS | WEIR_SK_DIRECT;
  const auto event = decode_as<CloseEvent>(record);
  EXPECT_EQ(event.open, microseconds(1500));
  EXPECT_EQ(event.bytes_sent, 1ULL << 40);
  EXPECT_EQ(event.bytes_received, 3U);
  EXPECT_EQ(event.requests, 2U);
  EXPECT_EQ(event.retransmits, 4U);
  EXPECT_EQ(event.min_rtt, microseconds(45));
  EXPECT_EQ(event.error, ECONNRESET);
  EXPECT_EQ(event.flags, record.flags);
  record.min_rtt_us = 0;
  record.error = 0;
  EXPECT_EQ(decode_as<CloseEvent>(record).min_rtt, std::nullopt);
  EXPECT_EQ(decode_as<CloseEvent>(record).error, std::nullopt);
}

TEST_F(DecodeEvent, FailureAndRequest) {
  auto failure = record_of<weir_event_failure>(WEIR_EVENT_FAILURE);
  failure.error = ECONNREFUSED;
  failure.consecutive = 3;
  EXPECT_EQ(decode_as<FailureEvent>(failure).error, ECONNREFUSED);
  EXPECT_EQ(decode_as<FailureEvent>(failure).consecutive, 3U);

  auto request = record_of<weir_event_request>(WEIR_EVENT_REQUEST);
  request.ttfb_ns = 80'123'456;
  request.sequence = 2;
  request.flags = WEIR_SK_MUX;
  const auto event = decode_as<RequestEvent>(request);
  EXPECT_EQ(event.ttfb, nanoseconds(80'123'456));
  EXPECT_EQ(event.sequence, 2U);
  EXPECT_EQ(event.flags, WEIR_SK_MUX);
}

TEST_F(DecodeEvent, OnlyAnOpeningHasAnOpenTime) {
  auto record = record_of<weir_event_breaker>(WEIR_EVENT_BREAKER);
  record.from = WEIR_BREAKER_HALF_OPEN;
  record.to = WEIR_BREAKER_OPEN;
  record.level = 2;
  record.open_ms = 20'500;
  auto event = decode_as<BreakerEvent>(record);
  EXPECT_EQ(event.from, WEIR_BREAKER_HALF_OPEN);
  EXPECT_EQ(event.to, WEIR_BREAKER_OPEN);
  EXPECT_EQ(event.level, 2U);
  EXPECT_EQ(event.open, milliseconds(20'500));
  record.to = WEIR_BREAKER_CLOSED;
  record.open_ms = 0;
  EXPECT_EQ(decode_as<BreakerEvent>(record).open, std::nullopt);
}

TEST_F(DecodeEvent, PickKeepsWhatItLookedAt) {
  auto record = record_of<weir_event_pick>(WEIR_EVENT_PICK);
  record.head.backend = 1;
  record.first = {0, 9, 80'000, 98'304};
  record.second = {1, 8, 0, 32'768};
  record.second_breaker = WEIR_BREAKER_HALF_OPEN;
  record.policy = WEIR_POLICY_P2C;
  record.rule = WEIR_RULE_COLD;
  record.rif_limit = 8;
  record.probe = 1;
  const auto pick = decode_as<PickEvent>(record);
  ASSERT_EQ(pick.candidates.size(), 2U);
  EXPECT_EQ(pick.candidates[0].backend, "127.0.0.1:9001");
  EXPECT_EQ(pick.candidates[0].load, 2.25);
  EXPECT_EQ(pick.candidates[0].latency, milliseconds(80));
  EXPECT_EQ(pick.candidates[0].weight, 1.5);
  EXPECT_EQ(pick.candidates[0].breaker, WEIR_BREAKER_CLOSED);
  EXPECT_TRUE(pick.candidates[0].hot);
  EXPECT_FALSE(pick.candidates[0].picked);
  EXPECT_EQ(pick.candidates[1].backend, "[::1]:9002");
  EXPECT_EQ(pick.candidates[1].load, 2);
  EXPECT_EQ(pick.candidates[1].latency, std::nullopt);
  EXPECT_EQ(pick.candidates[1].weight, 0.5);
  EXPECT_EQ(pick.candidates[1].breaker, WEIR_BREAKER_HALF_OPEN);
  EXPECT_FALSE(pick.candidates[1].hot) << "at the limit is not above it";
  EXPECT_TRUE(pick.candidates[1].picked);
  EXPECT_EQ(pick.policy, WEIR_POLICY_P2C);
  EXPECT_EQ(pick.rule, WEIR_RULE_COLD);
  EXPECT_EQ(pick.rif_limit, 2);
  EXPECT_FALSE(pick.panic);
  EXPECT_FALSE(pick.backup);
  EXPECT_TRUE(pick.probe);
}

TEST_F(DecodeEvent, ABackendDrawnTwiceIsOneCandidate) {
  auto record = record_of<weir_event_pick>(WEIR_EVENT_PICK);
  record.first = record.second = {0, 0, 0, 65'536};
  EXPECT_EQ(decode_as<PickEvent>(record).candidates.size(), 1U);
  record.first.backend = record.second.backend = WEIR_NO_BACKEND;
  EXPECT_TRUE(decode_as<PickEvent>(record).candidates.empty());
}

TEST_F(DecodeEvent, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(decode(record_of<weir_event_close>(static_cast<weir_event_kind>(6))), std::nullopt);
  const auto record = record_of<weir_event_close>(WEIR_EVENT_CLOSE);
  const auto bytes = std::as_bytes(std::span(&record, 1));
  EXPECT_EQ(decode_event(bytes.first(bytes.size() - 1), {pools, backends}), std::nullopt);
  EXPECT_EQ(decode_event(bytes.first(sizeof(weir_event_head) - 1), {pools, backends}),
            std::nullopt);
}

}  // namespace
}  // namespace weir::kernel
