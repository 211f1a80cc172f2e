// SPDX-License-Identifier: Apache-2.0
#include "bpf/lib/request.bpf.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "bpf/lib/census.bpf.h"

namespace weir::kernel {
namespace {

TEST(Request, MeasuresFromTheLastRequestByte) {
  weir_sk sk{};
  weir_be be{};
  EXPECT_EQ(weir_request_sent(&sk, &be, 100).first_byte, 0U);
  EXPECT_EQ(weir_request_sent(&sk, &be, 700).first_byte, 0U);
  EXPECT_EQ(be.waiting, 1U);
  EXPECT_EQ(be.streaming, 0U);

  const weir_request_event first = weir_response_received(&sk, &be, 1000);
  EXPECT_EQ(first.first_byte, 1U);
  EXPECT_EQ(first.ttfb_ns, 300U);
  EXPECT_EQ(be.waiting, 0U);
  EXPECT_EQ(be.streaming, 1U);
  EXPECT_EQ(sk.requests, 1U);

  EXPECT_EQ(weir_response_received(&sk, &be, 1100).first_byte, 0U);  // the rest of the response
  EXPECT_EQ(sk.requests, 1U);
}

TEST(Request, NextRequestOnTheConnectionEndsStreaming) {
  weir_sk sk{};
  weir_be be{};
  weir_request_sent(&sk, &be, 1);
  weir_response_received(&sk, &be, 2);
  weir_request_sent(&sk, &be, 3);
  EXPECT_EQ(be.waiting, 1U);
  EXPECT_EQ(be.streaming, 0U);
  EXPECT_EQ(weir_response_received(&sk, &be, 10).ttfb_ns, 7U);
}

TEST(Request, IgnoresAServerThatSpeaksFirst) {
  weir_sk sk{};
  weir_be be{};
  EXPECT_EQ(weir_response_received(&sk, &be, 5).first_byte, 0U);
  EXPECT_EQ(sk.phase, weir_u32{WEIR_PHASE_IDLE});
  EXPECT_EQ(be.streaming, 0U);
}

TEST(Request, CloseIsFinalAndMayBeRepeated) {
  weir_sk sk{};
  weir_be be{};
  weir_request_sent(&sk, &be, 1);
  weir_request_closed(&sk, &be);
  EXPECT_EQ(be.waiting, 0U);
  EXPECT_EQ(weir_request_closed(&sk, &be).underflows, 0U);
  weir_request_sent(&sk, &be, 2);
  weir_response_received(&sk, &be, 3);
  EXPECT_EQ(be.waiting, 0U);
  EXPECT_EQ(be.streaming, 0U);
  EXPECT_EQ(sk.requests, 0U);
}

TEST(Request, ReportsAGaugeThatIsAlreadyZero) {
  weir_sk sk{};
  weir_be be{};
  sk.phase = WEIR_PHASE_WAITING;
  EXPECT_EQ(weir_request_closed(&sk, &be).underflows, 1U);
  EXPECT_EQ(be.waiting, 0U);
}

TEST(Request, NumbersTheRequestsOfAConnection) {
  weir_sk sk{};
  weir_be be{};
  for (weir_u32 sequence = 1; sequence <= 3; ++sequence) {
    weir_request_sent(&sk, &be, 10 * sequence);
    const weir_request_event event = weir_response_received(&sk, &be, 10 * sequence + 4);
    EXPECT_EQ(event.sequence, sequence);
    EXPECT_TRUE(weir_is_sample(sk.flags, &event));
    EXPECT_EQ(sk.first_byte_ns, 10 * sequence + 4);
  }
  EXPECT_EQ(sk.requests, 3U);
}

TEST(Request, MultiplexedConnectionHasPhasesButNoRequests) {
  weir_sk sk{};
  weir_be be{};
  sk.flags = WEIR_SK_MUX | WEIR_SK_SNIFFED;
  weir_request_sent(&sk, &be, 1);
  EXPECT_EQ(be.waiting, 1U);
  EXPECT_EQ(weir_response_received(&sk, &be, 2).first_byte, 0U);
  EXPECT_EQ(be.streaming, 1U);
  EXPECT_EQ(weir_request_sent(&sk, &be, 3).over, 0U);
  weir_response_received(&sk, &be, 4);
  EXPECT_EQ(weir_request_closed(&sk, &be).over, 0U);
  EXPECT_EQ(sk.requests, 0U);
  EXPECT_EQ(be.waiting, 0U);
  EXPECT_EQ(be.streaming, 0U);
}

TEST(Request, TlsHandshakeIsNone) {
  weir_sk sk{};
  weir_be be{};
  sk.phase = WEIR_PHASE_FRESH;
  be.fresh = 1;
  sk.flags = WEIR_SK_TLS;
  weir_request_sent(&sk, &be, 1);
  EXPECT_EQ(weir_response_received(&sk, &be, 2).first_byte, 0U);
  EXPECT_EQ(be.fresh, 1U);
  EXPECT_EQ(sk.requests, 0U);

  weir_set_flags(&sk, WEIR_SK_SNIFFED);
  weir_request_sent(&sk, &be, 3);
  const weir_request_event first = weir_response_received(&sk, &be, 4);
  EXPECT_EQ(first.first_byte, 1U);
  EXPECT_FALSE(weir_is_sample(sk.flags, &first)) << "a session ticket may have come first";
  weir_request_sent(&sk, &be, 5);
  const weir_request_event second = weir_response_received(&sk, &be, 9);
  EXPECT_TRUE(weir_is_sample(sk.flags, &second));
  EXPECT_EQ(second.ttfb_ns, 4U);
  EXPECT_EQ(sk.requests, 2U);
}

TEST(Request, HandshakeTakenForARequestIsUndone) {
  weir_sk sk{};
  weir_be be{};
  sk.phase = WEIR_PHASE_FRESH;
  be.fresh = 1;
  weir_request_sent(&sk, &be, 1);
  EXPECT_EQ(weir_request_undone(&sk, &be).underflows, 0U);
  EXPECT_EQ(be.waiting, 0U);
  EXPECT_EQ(be.fresh, 1U);
  EXPECT_EQ(sk.phase, weir_u32{WEIR_PHASE_FRESH});
  weir_request_undone(&sk, &be);  // nothing to undo
  EXPECT_EQ(be.fresh, 1U);
}

TEST(Request, Trap12AdoptedConnectionIsKnownFromItsNextRequest) {
  weir_sk sk{};
  weir_be be{};
  sk.flags = WEIR_SK_ADOPTED;
  EXPECT_EQ(weir_response_received(&sk, &be, 5).first_byte, 0U);  // of a request before the agent
  EXPECT_EQ(sk.flags, weir_u32{WEIR_SK_ADOPTED});
  weir_request_sent(&sk, &be, 10);
  EXPECT_EQ(sk.flags, 0U);
  EXPECT_EQ(weir_response_received(&sk, &be, 12).ttfb_ns, 2U);
}

TEST(Request, InterimBytesAreReadBeforeTheResponse) {
  weir_sk sk{};
  EXPECT_FALSE(weir_interim_read(&sk, 10));  // there are none
  weir_interim_arrived(&sk, 25);
  EXPECT_TRUE(weir_interim_read(&sk, 10));
  EXPECT_TRUE(weir_interim_read(&sk, 15));
  EXPECT_FALSE(weir_interim_read(&sk, 1));

  weir_interim_arrived(&sk, 25);
  weir_interim_arrived(&sk, 30);
  EXPECT_FALSE(weir_interim_read(&sk, 56)) << "one byte of the response was among them";
  EXPECT_EQ(sk.interim_bytes, 0U);
}

TEST(Request, InterimResponsesReachFromWhereTheyWereSeen) {
  weir_sk sk{};
  sk.next_rx_seq = 1000;  // of the handshake
  EXPECT_EQ(weir_interim_from(&sk, 1000), 0U);
  EXPECT_EQ(weir_interim_from(&sk, 5000), 0U) << "long past";

  weir_interim_seen(&sk, 0xfffffff0U, 25);  // across the end of the sequence numbers
  EXPECT_EQ(weir_interim_from(&sk, 0xfffffff0U), 25U);
  EXPECT_EQ(weir_interim_from(&sk, 0xfffffff0U), 25U) << "peeked at";
  EXPECT_EQ(weir_interim_from(&sk, 4), 5U);
  EXPECT_EQ(weir_interim_from(&sk, 9), 0U);
  EXPECT_EQ(weir_interim_from(&sk, 9 + 0x80000000U), 0U) << "half a round of numbers later";
}

TEST(Request, FlagsSetAtOnceAreAllKept) {
  weir_sk sk{};
  {
    const std::jthread sniffer([&] { weir_set_flags(&sk, WEIR_SK_SNIFFED); });
    const std::jthread close([&] { weir_set_flags(&sk, WEIR_SK_TOTALLED); });
  }
  EXPECT_EQ(sk.flags, weir_u32{WEIR_SK_SNIFFED | WEIR_SK_TOTALLED});
  EXPECT_EQ(weir_clear_flags(&sk, WEIR_SK_SNIFFED), weir_u32{WEIR_SK_SNIFFED | WEIR_SK_TOTALLED});
  EXPECT_EQ(sk.flags, weir_u32{WEIR_SK_TOTALLED});
}

/// The same rules, written as plainly as possible.
struct Model {
  enum Phase { kIdle, kWaiting, kStreaming, kClosed } phase = kIdle;
  std::uint64_t last_sent = 0;
  std::uint64_t requests = 0;

  void sent(std::uint64_t now) {
    if (phase == kClosed) return;
    phase = kWaiting;
    last_sent = now;
  }
  std::optional<std::uint64_t> received(std::uint64_t now) {
    if (phase != kWaiting) return std::nullopt;
    phase = kStreaming;
    ++requests;
    return now - last_sent;
  }
  void closed() { phase = kClosed; }
};

TEST(Request, AgreesWithTheModelOnRandomHistories) {
  std::mt19937 random(7);
  for (int history = 0; history < 500; ++history) {
    constexpr std::size_t kSockets = 4;
    std::array<weir_sk, kSockets> sockets{};
    std::array<Model, kSockets> models;
    weir_be be{};
    for (std::uint64_t now = 1; now < 60; ++now) {
      const std::size_t i = random() % kSockets;
      weir_request_event event{};
      std::optional<std::uint64_t> expected;
      switch (random() % 8) {
        case 0:
          models[i].closed();
          event = weir_request_closed(&sockets[i], &be);
          break;
        case 1:
        case 2:
        case 3:
          models[i].sent(now);
          event = weir_request_sent(&sockets[i], &be, now);
          break;
        default:
          expected = models[i].received(now);
          event = weir_response_received(&sockets[i], &be, now);
      }
      ASSERT_EQ(event.underflows, 0U);
      ASSERT_EQ(event.first_byte == 1, expected.has_value());
      if (expected) {
        ASSERT_EQ(event.ttfb_ns, *expected);
      }

      weir_u32 waiting = 0;
      weir_u32 streaming = 0;
      for (std::size_t each = 0; each < kSockets; ++each) {
        waiting += models[each].phase == Model::kWaiting;
        streaming += models[each].phase == Model::kStreaming;
        ASSERT_EQ(sockets[each].requests, models[each].requests);
      }
      ASSERT_EQ(be.waiting, waiting);
      ASSERT_EQ(be.streaming, streaming);
    }
  }
}

TEST(Request, GaugesBalanceWhenSenderReceiverAndCloseRace) {
  weir_be be{};
  std::atomic<weir_u32> underflows{0};
  for (int round = 0; round < 300; ++round) {
    weir_sk sk{};
    std::vector<std::jthread> threads;
    threads.emplace_back([&] {
      for (weir_u64 i = 0; i < 50; ++i) underflows += weir_request_sent(&sk, &be, i).underflows;
    });
    threads.emplace_back([&] {
      for (weir_u64 i = 0; i < 50; ++i) {
        underflows += weir_response_received(&sk, &be, i).underflows;
      }
    });
    threads.emplace_back([&] { underflows += weir_request_closed(&sk, &be).underflows; });
    threads.clear();
    ASSERT_EQ(be.waiting, 0U) << "round " << round;
    ASSERT_EQ(be.streaming, 0U) << "round " << round;
  }
  EXPECT_EQ(underflows.load(), 0U);
}

/// The census takes a socket for idle at the moment at which its request leaves. Whoever comes
/// first, the request is counted. (The two meet in a few of so many rounds.)
TEST(Request, IsCountedAlsoWhenTheCensusEndsTheSilenceBeforeIt) {
  constexpr int kRounds = 400'000;
  constexpr weir_u64 kNow = 100 * WEIR_SILENCE_NS;
  weir_be be{};
  weir_sk sk{};
  std::atomic<int> begun{0};
  std::atomic<int> done{0};
  const auto wait_for = [](const std::atomic<int>& counter, int value) {
    for (int spins = 0; counter.load() < value; ++spins) {
      if (spins > 1000) std::this_thread::yield();
    }
  };
  const std::jthread census([&] {
    for (int round = 1; round <= kRounds; ++round) {
      wait_for(begun, round);
      weir_census_silence(&sk, &be, kNow);
      done.store(round);
    }
  });
  int missed = 0;
  for (int round = 1; round <= kRounds; ++round) {
    sk = {};
    be = {};
    const bool is_first = round % 2 == 0;
    sk.phase = is_first ? WEIR_PHASE_FRESH : WEIR_PHASE_STREAMING;
    ++(is_first ? be.fresh : be.streaming);
    begun.store(round);
    for (int pause = 0; pause < round % 64; ++pause) (void)begun.load();
    weir_request_sent(&sk, &be, kNow);
    wait_for(done, round);
    if (sk.phase != WEIR_PHASE_WAITING || be.waiting != 1 || be.fresh + be.streaming != 0) ++missed;
  }
  EXPECT_EQ(missed, 0);
}

TEST(SequenceCheck, OnlyNewBytesAdvance) {
  weir_u32 next = 1000;
  EXPECT_FALSE(weir_seq_advance(&next, 1000, 0));   // a bare ACK
  EXPECT_TRUE(weir_seq_advance(&next, 1000, 100));  // new
  EXPECT_EQ(next, 1100U);
  EXPECT_FALSE(weir_seq_advance(&next, 1000, 100));  // retransmitted
  EXPECT_FALSE(weir_seq_advance(&next, 1099, 1));    // keep-alive probe
  EXPECT_TRUE(weir_seq_advance(&next, 1050, 100));   // partly new
  EXPECT_EQ(next, 1150U);
}

TEST(SequenceCheck, WrapsAround) {
  weir_u32 next = 0xffffff00U;
  EXPECT_TRUE(weir_seq_advance(&next, 0xffffff00U, 0x200));
  EXPECT_EQ(next, 0x100U);
  EXPECT_FALSE(weir_seq_advance(&next, 0xffffff00U, 0x200));
}

}  // namespace
}  // namespace weir::kernel
