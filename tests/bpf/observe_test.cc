// SPDX-License-Identifier: Apache-2.0
//
// Request gauges and latency, with each of the two request clocks.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "agent/kernel/probe.h"
#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

constexpr char kService[] = "10.96.0.10:80";
constexpr int kHolders = 50;

class Observe : public DataPlaneTest, public testing::WithParamInterface<weir_request_clock> {
 protected:
  void SetUp() override {
    DataPlaneTest::SetUp();
    if (HasFailure() || IsSkipped()) return;
    require(has_request_clock(GetParam()) ? "" : "this kernel lacks the request clock");
  }
};

/// Times 200 requests on one connection, as a program would; returns the median.
std::chrono::nanoseconds::rep median_of_requests() {
  int error = 0;
  const int fd = connect_to(endpoint(kService), false, &error);
  std::array<std::chrono::nanoseconds::rep, 200> taken{};
  for (auto& each : taken) {
    char byte = 'q';
    if (send(fd, &byte, 1, 0) != 1) return 0;
    const auto start = std::chrono::steady_clock::now();
    if (recv(fd, &byte, 1, 0) != 1) return 0;
    each = (std::chrono::steady_clock::now() - start).count();
  }
  std::nth_element(taken.begin(), taken.begin() + taken.size() / 2, taken.end());
  return taken[taken.size() / 2];
}

TEST_P(Observe, LatencyAgreesWithTheProgramsOwnClock) {
  const TcpBackend backend_server("127.0.0.1", 5ms);
  attach({service(kService, {backend_server.address()})}, {1}, GetParam());
  const std::chrono::nanoseconds measured(
      run_in<std::chrono::nanoseconds::rep>(sandbox_.cgroup(), median_of_requests));
  ASSERT_GE(measured, 5ms);

  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.requests, 200U);
  ASSERT_EQ(reading.ttfb().count(), 200U);
  const auto error = *reading.ttfb().quantile(0.5) - measured;
  RecordProperty("p50_error_us", static_cast<int>(error / 1us));
  std::printf("p50 %.1f us, program %.1f us, error %.1f us\n",
              static_cast<double>(reading.ttfb().quantile(0.5)->count()) / 1e3,
              static_cast<double>(measured.count()) / 1e3,
              static_cast<double>(error.count()) / 1e3);
  EXPECT_LE(std::chrono::abs(error), 100us);
}

TEST_P(Observe, GaugesReturnToZeroWhenClientsAreKilledMidRequest) {
  const TcpBackend silent("127.0.0.1", std::nullopt);
  const TcpBackend quick("127.0.0.1");
  ServiceSpec second = service("10.96.0.11:80", {quick.address()});
  second.name = "second";
  attach({service(kService, {silent.address()}), second}, {1, 1}, GetParam());

  std::vector<std::unique_ptr<Application>> holders;
  for (int i = 0; i < kHolders; ++i) {
    holders.push_back(std::make_unique<Application>(sandbox_.cgroup(), [](int out) {
      int error = 0;
      char byte = 'q';
      const int waiting = connect_to(endpoint(kService), false, &error);
      bool good = error == 0 && send(waiting, &byte, 1, 0) == 1;
      const int streaming = connect_to(endpoint("10.96.0.11:80"), false, &error);
      good = good && error == 0 && send(streaming, &byte, 1, 0) == 1;
      good = good && recv(streaming, &byte, 1, 0) == 1;
      byte = good ? 1 : 0;
      (void)!write(out, &byte, 1);
      pause();
    }));
  }
  for (const auto& holder : holders) {
    char ready = 0;
    ASSERT_TRUE(holder->read(&ready, 1));
    ASSERT_EQ(ready, 1);
  }
  EXPECT_EQ(backend(0).in_flight, 50U);
  EXPECT_EQ(backend(0).waiting, 50U);
  EXPECT_EQ(backend(0).streaming, 0U);
  EXPECT_EQ(backend(1).in_flight, 50U);
  EXPECT_EQ(backend(1).waiting, 0U);
  EXPECT_EQ(backend(1).streaming, 50U);
  EXPECT_EQ(backend(1).requests, 50U);

  for (const auto& holder : holders) holder->kill();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0 && backend(1).in_flight == 0; }));
  for (const BackendReading& reading : snapshot().backends) {
    EXPECT_EQ(reading.in_flight, 0U);
    EXPECT_EQ(reading.waiting, 0U);
    EXPECT_EQ(reading.streaming, 0U);
  }
  EXPECT_EQ(stat(WEIR_STAT_RELEASED), 100U);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
  EXPECT_EQ(stat(WEIR_STAT_BAD_INDEX), 0U);
}

TEST_P(Observe, UploadTimeIsNotTheBackendsLatency) {
  const TcpBackend server("127.0.0.1", 400ms);  // counted from the first part of the request
  attach({service(kService, {server.address()})}, {1}, GetParam());
  const std::chrono::nanoseconds measured(
      run_in<std::chrono::nanoseconds::rep>(sandbox_.cgroup(), [] {
        int error = 0;
        char byte = 'q';
        const int fd = connect_to(endpoint(kService), false, &error);
        (void)send(fd, &byte, 1, 0);
        std::this_thread::sleep_for(250ms);
        (void)send(fd, &byte, 1, 0);
        const auto last_part = std::chrono::steady_clock::now();
        (void)recv(fd, &byte, 1, 0);
        return (std::chrono::steady_clock::now() - last_part).count();
      }));
  ASSERT_GT(measured, 1ms);
  ASSERT_LT(measured, 250ms);
  const BackendReading reading = backend(0);
  ASSERT_EQ(reading.ttfb().count(), 1U);
  // One sample on a machine that may be busy; counted from the first part it would be 250 ms off.
  EXPECT_LT(std::chrono::abs(*reading.ttfb().mean() - measured), 100ms);
}

INSTANTIATE_TEST_SUITE_P(BothClocks, Observe,
                         testing::Values(WEIR_CLOCK_TRACEPOINT, WEIR_CLOCK_SKB),
                         [](const auto& clock) {
                           return clock.param == WEIR_CLOCK_SKB ? "Skb" : "Tracepoint";
                         });

}  // namespace
}  // namespace weir::kernel
