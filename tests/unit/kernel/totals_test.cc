// SPDX-License-Identifier: Apache-2.0
#include "bpf/lib/totals.bpf.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

namespace weir::kernel {
namespace {

/// A connection of which the census has seen nothing yet.
weir_sk opened() {
  weir_sk sk{};
  sk.opened_ns = 100;
  sk.counted_sent = WEIR_SYN_BYTES;
  return sk;
}

/// TCP's own counts for a connection that carried 1000 bytes out and 5000 in.
weir_end ended(weir_u32 state, bool fin_acked, bool fin_in) {
  weir_end end{};
  end.state = state;
  end.bytes_acked = 1000 + WEIR_SYN_BYTES + (fin_acked ? WEIR_FIN_BYTES : 0);
  end.bytes_received = 5000 + (fin_in ? WEIR_FIN_BYTES : 0);
  end.all_acked = fin_acked;
  return end;
}

TEST(Totals, BytesArePayloadHoweverTheConnectionEnded) {
  constexpr weir_u32 kEstablished = 1;
  struct Case {
    weir_u32 state;
    bool fin_acked;
    bool fin_in;
    bool flag;  ///< the flag that tells of the peer's FIN
  };
  for (const Case& each : {
           Case{kEstablished, false, false, false},        // reset
           Case{WEIR_TCP_FIN_WAIT1, false, false, false},  // reset after our FIN
           Case{WEIR_TCP_FIN_WAIT2, true, false, false},   // the peer's FIN comes to TIME_WAIT
           Case{WEIR_TCP_FIN_WAIT2, true, true, true},     // the peer's FIN was the end
           Case{WEIR_TCP_CLOSE_WAIT, false, true, true},   // reset after the peer's FIN
           Case{WEIR_TCP_LAST_ACK, true, true, true},      // the peer closed first
           Case{WEIR_TCP_LAST_ACK, true, true, false},     // the same, flag not seen
           Case{WEIR_TCP_LAST_ACK, false, true, true},     // the same, our FIN never answered
           Case{WEIR_TCP_CLOSING, true, true, true},       // both at once
       }) {
    weir_sk sk = opened();
    weir_total total{};
    weir_end end = ended(each.state, each.fin_acked, each.fin_in);
    end.fin_in = each.flag;
    ASSERT_EQ(weir_add_totals(&sk, &total, &end), 1);
    EXPECT_EQ(total.bytes_sent, 1000U) << "state " << each.state;
    EXPECT_EQ(total.bytes_received, 5000U) << "state " << each.state;
    EXPECT_EQ(total.closes, 1U);
  }
}

TEST(Totals, OnlyWhatTheCensusHasNotCountedIsAdded) {
  weir_sk sk = opened();
  weir_total total{};
  weir_count_bytes(&sk.counted_sent, 400 + WEIR_SYN_BYTES, &total.bytes_sent);
  weir_count_bytes(&sk.counted_received, 2000, &total.bytes_received);
  EXPECT_EQ(total.bytes_sent, 400U);
  const weir_end end = ended(WEIR_TCP_LAST_ACK, true, true);
  weir_add_totals(&sk, &total, &end);
  EXPECT_EQ(total.bytes_sent, 1000U);
  EXPECT_EQ(total.bytes_received, 5000U);
}

TEST(Totals, CensusAndCloseAtOnceCountEveryByteOnce) {
  for (int round = 0; round < 3000; ++round) {
    weir_sk sk = opened();
    weir_total total{};
    {
      // Three of them take at most three of the close's tries.
      const std::jthread census([&] {
        for (const weir_u64 bytes : {1U, 2500U, 4999U}) {
          weir_count_bytes(&sk.counted_received, bytes, &total.bytes_received);
        }
      });
      const std::jthread close([&] {
        const weir_end end = ended(WEIR_TCP_LAST_ACK, true, true);
        weir_add_totals(&sk, &total, &end);
      });
    }
    ASSERT_EQ(total.bytes_received, 5000U) << "round " << round;
  }
}

TEST(Totals, RecordThatWentToAnotherBackendIsLeftAlone) {
  weir_sk sk = opened();
  weir_total total{};
  total.since_ns = 101;
  const weir_end end = ended(WEIR_TCP_LAST_ACK, true, true);
  EXPECT_EQ(weir_add_totals(&sk, &total, &end), 0);
  EXPECT_EQ(total.closes, 0U);
  EXPECT_EQ(total.bytes_sent, 0U);
}

TEST(Totals, ErrorsAreResetsUnlessTheyWereMadeHere) {
  constexpr weir_u32 kReset = 104;
  constexpr weir_u32 kTimedOut = 110;
  weir_total total{};
  for (const weir_u32 error : {0U, kReset, kTimedOut, weir_u32{WEIR_ECONNABORTED}}) {
    weir_sk sk = opened();
    weir_end end = ended(1, false, false);
    end.error = error;
    weir_add_totals(&sk, &total, &end);
  }
  EXPECT_EQ(total.closes, 4U);
  EXPECT_EQ(total.resets, 2U);
}

TEST(Totals, LeastRoundTripIsKept) {
  weir_total total{};
  for (const weir_u32 rtt_us : {0U, 0xffffffffU, 80U, 300U, 45U, 60U}) {
    weir_sk sk = opened();
    weir_end end = ended(WEIR_TCP_LAST_ACK, true, true);
    end.min_rtt_us = rtt_us;
    end.retransmits = 2;
    weir_add_totals(&sk, &total, &end);
  }
  EXPECT_EQ(total.min_rtt_us, 45U);
  EXPECT_EQ(total.retransmits, 12U);
}

TEST(Totals, LeastRoundTripOfManyThreadsIsTheLeast) {
  weir_u32 least = 0;
  {
    std::vector<std::jthread> threads;
    for (weir_u32 thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&least, thread] {
        for (weir_u32 value = 5000; value > 10; --value) weir_lower_to(&least, value + thread);
      });
    }
  }
  EXPECT_EQ(least, 11U);
}

}  // namespace
}  // namespace weir::kernel
