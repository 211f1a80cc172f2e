// SPDX-License-Identifier: Apache-2.0
//
// Ending the idle connections to a backend whose breaker opened.
#include <sys/socket.h>

#include <cerrno>

#include "agent/kernel/socket_sweeps.h"
#include "tests/bpf/census_fixture.h"

namespace weir::kernel {
namespace {

class EndIdle : public CensusTest {
 protected:
  void SetUp() override {
    CensusTest::SetUp();
    if (HasFailure() || IsSkipped()) return;
    require(can_end_connections() ? "" : "this kernel lacks bpf_sock_destroy");
  }

  std::size_t end_idle(std::uint32_t index) {
    auto ended = plane_->end_idle_connections(index);
    EXPECT_TRUE(ended.ok()) << ended.error().message;
    return ended ? *ended : 0;
  }

  /// One connection to the service, accepted into the same slot of the server.
  void open(RemoteSockets& client, RemoteSockets& server, int slot) {
    ASSERT_EQ(client.connect(slot, endpoint(kService)), 0);
    ASSERT_EQ(server.accept(kListener, slot), 0);
  }
  static void request(RemoteSockets& client, RemoteSockets& server, int slot) {
    ASSERT_EQ(client.send(slot, 1), 0);
    ASSERT_EQ(server.receive(slot, 1), 0);
    ASSERT_EQ(server.send(slot, 1), 0);
    ASSERT_EQ(client.receive(slot, 1), 0);
  }

  static constexpr int kListener = 60;
};

TEST_F(EndIdle, EndsWhatIsIdleAndNothingElse) {
  enum : int { kFresh, kAnswered, kWaiting, kUnread, kUnsent, kAdopted, kStreaming, kOther };
  const Endpoint address = endpoint("127.0.0.1:7080");
  const TcpBackend elsewhere("127.0.0.1");
  RemoteSockets server(sandbox_.cgroup());
  RemoteSockets client(sandbox_.cgroup());
  ASSERT_EQ(server.listen(kListener, address), 0);
  ASSERT_EQ(client.connect(kAdopted, address), 0);
  ASSERT_EQ(server.accept(kListener, kAdopted), 0);
  attach({service(kService, {address, elsewhere.address()})}, {1, 0});
  adopt();
  for (const int slot : {kFresh, kAnswered, kWaiting, kUnread, kUnsent, kStreaming}) {
    open(client, server, slot);
  }
  for (const int slot : {kAnswered, kUnread}) request(client, server, slot);
  ASSERT_EQ(client.send(kWaiting, 1), 0);
  ASSERT_EQ(server.send(kUnread, 1), 0);  // more, which the client does not read
  ASSERT_EQ(client.fill(kUnsent), 0);     // more than the server reads
  ASSERT_EQ(server.send(kUnsent, 1), 0);
  ASSERT_EQ(client.receive(kUnsent, 1), 0);
  publish({0, 1});
  ASSERT_EQ(client.connect(kOther, endpoint(kService)), 0);  // idle, but of another backend
  take_census();                                             // what is silent is idle
  request(client, server, kStreaming);
  EXPECT_EQ(gauges(0), (Gauges{7, 0, 1, 1}));

  publish({1, 1});
  ASSERT_TRUE(plane_->open_breaker(0).ok());
  EXPECT_EQ(end_idle(0), 2U);
  EXPECT_EQ(backend(0).idle_ended, 2U);
  EXPECT_EQ(backend(1).idle_ended, 0U);
  EXPECT_EQ(gauges(0), (Gauges{5, 0, 1, 1}));
  EXPECT_EQ(end_idle(0), 0U) << "nothing is left to end";

  // The owner sees it at its next use, and dials again: elsewhere.
  EXPECT_EQ(client.receive(kFresh, 1), ECONNABORTED);
  EXPECT_EQ(client.send(kAnswered, 1), ECONNABORTED);
  for (const int slot : {kFresh, kAnswered}) {
    ASSERT_EQ(client.close(slot), 0);
    ASSERT_EQ(client.connect(slot, endpoint(kService)), 0);
    ASSERT_EQ(client.send(slot, 1), 0);
    EXPECT_EQ(client.receive(slot, 1), 0);
  }
  EXPECT_EQ(backend(1).connects, 3U);

  // The others go on where they were.
  for (const int slot : {kWaiting, kUnread, kUnsent, kAdopted, kStreaming, kOther}) {
    EXPECT_EQ(client.error(slot), 0) << slot;
  }
  ASSERT_EQ(server.receive(kWaiting, 1), 0);
  ASSERT_EQ(server.send(kWaiting, 1), 0);
  EXPECT_EQ(client.receive(kWaiting, 1), 0);
  EXPECT_EQ(client.receive(kUnread, 1), 0);
  request(client, server, kAdopted);
  request(client, server, kStreaming);
  const CensusReport report = take_census();
  EXPECT_EQ(report.drift, 0U);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
  client.kill();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight + backend(1).in_flight == 0; }));
}

/// Trap 4: also for a client in a network namespace of its own.
TEST_F(EndIdle, Trap04ReachesEveryNetworkNamespace) {
  const Endpoint address = endpoint("127.0.0.1:7081");
  RemoteSockets pod(sandbox_.cgroup(), RemoteSockets::Network::kOwn);
  ASSERT_EQ(pod.listen(kListener, address), 0);
  attach({service(kService, {address})}, {1});
  ASSERT_EQ(pod.connect(0, endpoint(kService)), 0);
  ASSERT_EQ(pod.accept(kListener, 1), 0);
  EXPECT_EQ(backend(0).in_flight, 1U);
  EXPECT_EQ(end_idle(0), 1U);
  EXPECT_EQ(backend(0).in_flight, 0U);
  EXPECT_EQ(pod.error(0), ECONNABORTED);
  EXPECT_EQ(pod.receive(1, 1), ECONNRESET) << "the server's end sees a reset";
}

TEST_F(EndIdle, AnIpv6ConnectionEndsAlike) {
  const TcpBackend server("::1");
  attach({service("[fd00::10]:80", {server.address()})}, {1});
  Application client(sandbox_.cgroup(), [](int out) {
    int outcome = 0;
    const int fd = connect_to(endpoint("[fd00::10]:80"), true, &outcome);
    (void)!write(out, &outcome, sizeof(outcome));
    char byte = 0;
    outcome = recv(fd, &byte, 1, 0) < 0 ? errno : -1;
    (void)!write(out, &outcome, sizeof(outcome));
  });
  int outcome = -1;
  ASSERT_TRUE(client.read(&outcome, sizeof(outcome)));
  ASSERT_EQ(outcome, 0);
  EXPECT_EQ(end_idle(0), 1U);
  ASSERT_TRUE(client.read(&outcome, sizeof(outcome)));
  EXPECT_EQ(outcome, ECONNABORTED);
}

TEST_F(EndIdle, NothingIsKnownIdleWithoutARequestClock) {
  const TcpBackend server("127.0.0.1");
  attach({service(kService, {server.address()})}, {1}, WEIR_CLOCK_NONE);
  RemoteSockets client(sandbox_.cgroup());
  ASSERT_EQ(client.connect(0, endpoint(kService)), 0);
  const auto ended = plane_->end_idle_connections(0);
  ASSERT_FALSE(ended.ok());
  EXPECT_EQ(ended.error().code, Code::kUnsupported);
  EXPECT_EQ(client.error(0), 0);
}

TEST_F(EndIdle, UnknownBackendIsRefused) {
  attach({service(kService, {})}, {});
  const auto ended = plane_->end_idle_connections(1U << 20);
  ASSERT_FALSE(ended.ok());
  EXPECT_EQ(ended.error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace weir::kernel
