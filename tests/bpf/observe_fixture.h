// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the request clocks share: each runs with both.
#pragma once

#include <string>

#include "agent/kernel/probe.h"
#include "tests/bpf/watch_fixture.h"
#include "tests/fixtures/scripted_server.h"

namespace weir::kernel {

class ObserveTest : public WatchTest, public testing::WithParamInterface<weir_request_clock> {
 protected:
  void SetUp() override {
    WatchTest::SetUp();
    if (HasFailure() || IsSkipped()) return;
    require(has_request_clock(GetParam()) ? "" : "this kernel lacks the request clock");
  }

  /// One service with this backend, observed with the clock of the test.
  void observe(const Endpoint& server) {
    attach({service(kWatchedService, {server})}, {1}, GetParam());
  }

  /// Runs `client` in an application with a connection to the service; what it returns says whether
  /// all went as it expected. Then waits for the end of the connection.
  bool exchange(const std::function<bool(int fd)>& client) {
    const std::uint64_t closes = backend(0).closes;
    const bool good = run_in<bool>(sandbox_.cgroup(), [&] {
      int error = 0;
      const int fd = connect_to(endpoint(kWatchedService), false, &error);
      const bool fine = error == 0 && client(fd);
      close(fd);
      return fine;
    });
    return good && eventually([&] { return backend(0).closes == closes + 1; });
  }

  /// Nothing outstanding, nothing counted twice.
  void expect_settled() {
    const BackendReading reading = backend(0);
    EXPECT_EQ(reading.in_flight, 0U);
    EXPECT_EQ(reading.fresh, 0U);
    EXPECT_EQ(reading.waiting, 0U);
    EXPECT_EQ(reading.streaming, 0U);
    EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
    EXPECT_EQ(stat(WEIR_STAT_BAD_INDEX), 0U);
  }
};

inline std::string clock_name(const testing::TestParamInfo<weir_request_clock>& clock) {
  return clock.param == WEIR_CLOCK_SKB ? "Skb" : "Tracepoint";
}

}  // namespace weir::kernel

/// Instantiates a suite of ObserveTest for both clocks.
#define WEIR_WITH_BOTH_CLOCKS(suite)                                               \
  INSTANTIATE_TEST_SUITE_P(BothClocks, suite,                                      \
                           testing::Values(WEIR_CLOCK_TRACEPOINT, WEIR_CLOCK_SKB), \
                           weir::kernel::clock_name)
