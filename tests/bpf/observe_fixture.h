// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the request clocks share: each runs with every set of programs that there is.
#pragma once

#include <set>
#include <string>

#include "agent/kernel/probe.h"
#include "tests/bpf/watch_fixture.h"
#include "tests/fixtures/fake_kernel_probe.h"
#include "tests/fixtures/scripted_server.h"

namespace weir::kernel {

/// How responses are seen, from the newest kernels to the oldest.
enum class Sight { kCopiedPayload, kReadsAndPackets, kPackets };

inline weir_request_clock clock_of(Sight sight) {
  return sight == Sight::kPackets ? WEIR_CLOCK_SKB : WEIR_CLOCK_TRACEPOINT;
}

class ObserveTest : public WatchTest, public testing::WithParamInterface<Sight> {
 protected:
  void SetUp() override {
    WatchTest::SetUp();
    if (HasFailure() || IsSkipped()) return;
    require(has_request_clock(clock_of(GetParam())) ? "" : "this kernel lacks the request clock");
    if (GetParam() != Sight::kCopiedPayload) return;
    require(running_kernel().has(Feature::kTracepointPayload)
                ? ""
                : "this kernel shows tracepoints no payload");
  }

  /// One service with this backend, observed in the way of the test.
  void observe(const Endpoint& server) {
    std::set<Feature> missing;
    if (GetParam() != Sight::kCopiedPayload) missing.insert(Feature::kTracepointPayload);
    const FakeKernelProbe kernel(std::move(missing), &running_kernel());
    DataPlane::Options options;
    options.cgroup_path = sandbox_.cgroup();
    options.pin_root = sandbox_.pin_root();
    options.request_clock = clock_of(GetParam());
    options.services = {service(kWatchedService, {server})};
    auto attached = DataPlane::attach(options, kernel);
    ASSERT_TRUE(attached.ok()) << attached.error().message;
    plane_ = std::move(*attached);
    publish({1});
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

inline std::string sight_name(const testing::TestParamInfo<Sight>& sight) {
  switch (sight.param) {
    case Sight::kCopiedPayload:
      return "TracepointCopy";
    case Sight::kReadsAndPackets:
      return "TracepointRecv";
    case Sight::kPackets:
      return "Skb";
  }
  return "";
}

}  // namespace weir::kernel

/// Instantiates a suite of ObserveTest.
#define WEIR_WITH_EVERY_SIGHT(suite)                                                              \
  INSTANTIATE_TEST_SUITE_P(                                                                       \
      Sights, suite,                                                                              \
      testing::Values(weir::kernel::Sight::kCopiedPayload, weir::kernel::Sight::kReadsAndPackets, \
                      weir::kernel::Sight::kPackets),                                             \
      weir::kernel::sight_name)
