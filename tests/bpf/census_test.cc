// SPDX-License-Identifier: Apache-2.0
//
// The recount of the gauges against real sockets.
#include <sys/mman.h>
#include <sys/socket.h>

#include <cerrno>
#include <new>

#include "tests/bpf/census_fixture.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

class Census : public CensusTest {};

TEST_F(Census, FindsEveryPhaseWhereTheGaugesHaveIt) {
  const TcpBackend silent("127.0.0.1", std::nullopt);
  const TcpBackend quick("127.0.0.1");
  ServiceSpec second = service("10.96.0.11:80", {quick.address()});
  second.name = "second";
  attach({service(kService, {silent.address()}), second}, {1, 1});
  RemoteSockets client(sandbox_.cgroup());
  for (int slot = 0; slot < 6; ++slot) {
    ASSERT_EQ(client.connect(slot, endpoint(slot < 4 ? kService : "10.96.0.11:80")), 0);
  }
  ASSERT_EQ(client.send(0, 1), 0);  // waits
  ASSERT_EQ(client.send(5, 1), 0);  // is answered
  ASSERT_EQ(client.receive(5, 1), 0);
  EXPECT_EQ(gauges(0), (Gauges{4, 3, 1, 0}));
  EXPECT_EQ(gauges(1), (Gauges{2, 1, 0, 1}));

  const CensusReport report = take_census();
  EXPECT_EQ(report.censuses, 1U);
  EXPECT_EQ(report.sockets, 6U);
  EXPECT_EQ(report.drift, 0U);
  // Silent for long: no load any more. A request that waits is not silence.
  EXPECT_EQ(gauges(0), (Gauges{4, 0, 1, 0}));
  EXPECT_EQ(gauges(1), (Gauges{2, 0, 0, 0}));
  MapSet seen = maps();
  EXPECT_EQ(seen.census()[0].in_flight, 4U);
  EXPECT_EQ(seen.census()[0].waiting, 1U);
  EXPECT_EQ(seen.census()[1].in_flight, 2U);

  // From idle, everything goes on as usual.
  ASSERT_EQ(client.send(4, 1), 0);
  ASSERT_EQ(client.receive(4, 1), 0);
  ASSERT_EQ(client.send(5, 1), 0);
  ASSERT_EQ(client.receive(5, 1), 0);
  EXPECT_EQ(gauges(1), (Gauges{2, 0, 0, 2}));
  EXPECT_EQ(backend(1).requests, 3U);
  client.kill();
  EXPECT_TRUE(eventually([&] { return gauges(0) == Gauges{} && gauges(1) == Gauges{}; }));
  EXPECT_EQ(take_census().drift, 0U);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
}

TEST_F(Census, SilenceEndsNothingEarly) {
  const TcpBackend quick("127.0.0.1");
  attach({service(kService, {quick.address()})}, {1});
  const TimePoint started = std::chrono::steady_clock::now();
  RemoteSockets client(sandbox_.cgroup());
  ASSERT_EQ(client.connect(0, endpoint(kService)), 0);
  ASSERT_EQ(client.connect(1, endpoint(kService)), 0);
  ASSERT_EQ(client.send(1, 1), 0);
  ASSERT_EQ(client.receive(1, 1), 0);
  // The first census comes a second after the start, and so within a second of the connects.
  ASSERT_TRUE(plane_->housekeeping(started + 1s).ok());
  EXPECT_EQ(snapshot().census.censuses, 1U);
  EXPECT_EQ(gauges(0), (Gauges{2, 1, 0, 1}));
}

TEST_F(Census, AddsTheBytesOfLiveConnectionsOnce) {
  const TcpBackend quick("127.0.0.1");
  attach({service(kService, {quick.address()})}, {1});
  RemoteSockets client(sandbox_.cgroup());
  ASSERT_EQ(client.connect(0, endpoint(kService)), 0);
  ASSERT_EQ(client.send(0, 1000), 0);
  ASSERT_EQ(client.receive(0, 1), 0);
  take_census();
  const BackendReading first = backend(0);
  EXPECT_EQ(first.bytes_sent, 1000U);
  EXPECT_EQ(first.bytes_received, 1U);
  take_census();
  EXPECT_EQ(backend(0).bytes_sent, first.bytes_sent);
  EXPECT_EQ(backend(0).bytes_received, 1U);
  ASSERT_EQ(client.send(0, 500), 0);
  ASSERT_EQ(client.receive(0, 1), 0);
  take_census();
  EXPECT_EQ(backend(0).bytes_sent, first.bytes_sent + 500);
  EXPECT_EQ(backend(0).bytes_received, 2U);
  // The rest at the close, by which the FINs are no payload.
  ASSERT_EQ(client.send(0, 70), 0);
  ASSERT_EQ(client.receive(0, 1), 0);
  ASSERT_EQ(client.close(0), 0);
  EXPECT_TRUE(eventually([&] { return backend(0).closes == 1; }));
  EXPECT_EQ(backend(0).bytes_sent, 1570U);
  EXPECT_EQ(backend(0).bytes_received, 3U);
}

TEST_F(Census, CorrectsAnInjectedErrorAfterTwoRecountsAndReportsIt) {
  const TcpBackend quick("127.0.0.1");
  attach({service(kService, {quick.address()})}, {1});
  RemoteSockets client(sandbox_.cgroup());
  for (int slot = 0; slot < 3; ++slot) ASSERT_EQ(client.connect(slot, endpoint(kService)), 0);
  ASSERT_EQ(take_census().drift, 0U);
  {
    MapSet changed = maps();
    changed.backends()[0].in_flight += 5;
    changed.backends()[0].waiting += 2;
    changed.pools()[0].open += 1;
  }
  CensusReport report = take_census();
  EXPECT_EQ(report.drift, 8U);
  EXPECT_EQ(report.corrected, 0U);
  EXPECT_EQ(gauges(0), (Gauges{8, 0, 2, 0}));
  report = take_census();
  EXPECT_EQ(report.drift, 8U);
  EXPECT_EQ(report.corrected, 8U);
  EXPECT_EQ(gauges(0), (Gauges{3, 0, 0, 0}));
  EXPECT_EQ(snapshot().services[0].open, 0U);
  report = take_census();
  EXPECT_EQ(report.drift, 0U);
  EXPECT_EQ(report.corrected, 8U);

  maps().backends()[0].in_flight -= 2;  // too low, too
  take_census();
  EXPECT_EQ(take_census().corrected, 10U);
  EXPECT_EQ(gauges(0), (Gauges{3, 0, 0, 0}));
  client.kill();
  EXPECT_TRUE(eventually([&] { return gauges(0) == Gauges{}; }));
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
}

TEST_F(Census, CountsOpenBreakersAsThePoolDoes) {
  const TcpBackend quick("127.0.0.1");
  attach({service(kService, {quick.address(), endpoint("127.0.0.1:9")})}, {1, 1});
  ASSERT_TRUE(plane_->open_breaker(1).ok());
  ASSERT_EQ(snapshot().services[0].open, 1U);
  EXPECT_EQ(take_census().drift, 0U);
  maps().pools()[0].open = 0;
  take_census();
  EXPECT_EQ(take_census().corrected, 1U);
  EXPECT_EQ(snapshot().services[0].open, 1U);
}

/// Trap 24: connections come and go while they are recounted.
TEST_F(Census, Trap24DoesNotTakeTrafficForDrift) {
  const TcpBackend quick("127.0.0.1");
  attach({service(kService, {quick.address()})}, {1});
  std::vector<std::unique_ptr<Application>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<Application>(sandbox_.cgroup(), [](int) {
      std::array<int, 8> held{};
      held.fill(-1);
      for (std::size_t turn = 0;; turn = (turn + 1) % held.size()) {
        if (held[turn] >= 0) close(held[turn]);
        int error = 0;
        char byte = 'q';
        held[turn] = connect_to(endpoint(kService), false, &error);
        if (error == 0 && turn % 2 == 0 && send(held[turn], &byte, 1, MSG_NOSIGNAL) == 1) {
          (void)!recv(held[turn], &byte, 1, 0);
        }
      }
    }));
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto lasts = [&] { return std::chrono::steady_clock::now() - begin; };
  CensusReport report;
  while (lasts() < 3s || (report.censuses <= 100 && lasts() < 60s)) {
    report = take_census();
    ASSERT_EQ(report.corrected, 0U) << "after " << report.censuses << " censuses";
  }
  EXPECT_GT(report.censuses, 100U);
  EXPECT_GT(backend(0).connects, 1000U);
  RecordProperty("censuses", static_cast<int>(report.censuses));
  RecordProperty("connects", static_cast<int>(backend(0).connects));
  std::printf("%lu censuses during %lu connects\n", report.censuses, backend(0).connects);
  clients.clear();
  EXPECT_TRUE(eventually([&] { return gauges(0) == Gauges{}; })) << gauges(0);
  take_census();
  EXPECT_EQ(take_census().drift, 0U);
}

}  // namespace
}  // namespace weir::kernel
