// SPDX-License-Identifier: Apache-2.0
//
// Connections that were there before the agent.
#include <bpf/bpf.h>
#include <sys/socket.h>

#include <cerrno>

#include "agent/kernel/decode.h"
#include "tests/bpf/census_fixture.h"

namespace weir::kernel {
namespace {

/// Trap 12: connections older than the programs are invisible to their hooks.
class Adopt : public CensusTest {
 protected:
  void attach_to(const Endpoint& backend, std::optional<weir_request_clock> clock = {}) {
    attach({service(kService, {backend})}, {1}, clock);
  }
};

TEST_F(Adopt, Trap12CountsConnectionsFromBeforeAndSeesThemClose) {
  const TcpBackend server("127.0.0.1");
  RemoteSockets client(sandbox_.cgroup());
  for (int slot = 0; slot < 3; ++slot) ASSERT_EQ(client.connect(slot, server.address()), 0);
  attach_to(server.address());
  EXPECT_EQ(backend(0).in_flight, 0U);

  CensusReport report = adopt();
  EXPECT_EQ(report.adopted, 3U);
  EXPECT_EQ(report.unwatched, 0U);
  EXPECT_EQ(backend(0).in_flight, 3U);
  EXPECT_EQ(backend(0).adopted, 3U);
  EXPECT_EQ(gauges(0), (Gauges{3, 0, 0, 0})) << "nothing is known of their requests";

  // Again, and with connections that were seen from the beginning: nothing is counted twice.
  ASSERT_EQ(client.connect(10, endpoint(kService)), 0);
  ASSERT_EQ(client.connect(11, server.address()), 0);
  report = take_census();
  EXPECT_EQ(report.adopted, 3U);
  EXPECT_EQ(report.drift, 0U);
  EXPECT_EQ(backend(0).in_flight, 5U);
  EXPECT_EQ(backend(0).adopted, 3U);

  ASSERT_EQ(client.close(0), 0);
  EXPECT_EQ(backend(0).in_flight, 4U) << "close() is seen at once";
  client.kill();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
  EXPECT_EQ(take_census().drift, 0U);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
}

class AdoptWithClock : public Adopt, public testing::WithParamInterface<weir_request_clock> {};

TEST_P(AdoptWithClock, MeasuresFromTheNextRequestOn) {
  const Endpoint address = endpoint("127.0.0.1:7073");
  RemoteSockets server(sandbox_.cgroup());
  RemoteSockets client(sandbox_.cgroup());
  ASSERT_EQ(server.listen(0, address), 0);
  ASSERT_EQ(client.connect(1, address), 0);
  ASSERT_EQ(server.accept(0, 1), 0);
  ASSERT_EQ(client.send(1, 100), 0);
  ASSERT_EQ(server.receive(1, 100), 0);
  attach_to(address, GetParam());
  // Both ends; the server's only where something is to be learned from it.
  ASSERT_EQ(adopt().adopted, GetParam() == WEIR_CLOCK_TRACEPOINT ? 2U : 1U);
  ASSERT_EQ(backend(0).adopted, 1U);
  ASSERT_EQ(server.send(1, 7), 0);
  ASSERT_EQ(client.receive(1, 7), 0);
  EXPECT_EQ(backend(0).requests, 0U) << "a response without its request tells nothing";
  EXPECT_EQ(backend(0).ttfb().count(), 0U);
  EXPECT_EQ(gauges(0), (Gauges{1, 0, 0, 0}));

  ASSERT_EQ(client.send(1, 10), 0);
  EXPECT_EQ(gauges(0), (Gauges{1, 0, 1, 0}));
  ASSERT_EQ(server.receive(1, 10), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // what is measured
  ASSERT_EQ(server.send(1, 1), 0);
  ASSERT_EQ(client.receive(1, 1), 0);
  EXPECT_EQ(gauges(0), (Gauges{1, 0, 0, 1}));
  EXPECT_EQ(backend(0).requests, 1U);
  ASSERT_EQ(backend(0).ttfb().count(), 1U);
  EXPECT_GE(*backend(0).ttfb().quantile(0.5), std::chrono::milliseconds(20));
  // Bytes from before the agent are nobody's.
  EXPECT_EQ(take_census().drift, 0U);
  EXPECT_EQ(backend(0).bytes_sent, 10U);
  EXPECT_EQ(backend(0).bytes_received, 8U);
}

INSTANTIATE_TEST_SUITE_P(Clocks, AdoptWithClock,
                         testing::Values(WEIR_CLOCK_TRACEPOINT, WEIR_CLOCK_SKB),
                         [](const auto& each) {
                           return each.param == WEIR_CLOCK_SKB ? "Skb" : "Tracepoint";
                         });

/// Traps 4 and 13: a TCP iterator sees the network namespace of its opener only.
TEST_F(Adopt, Trap13FindsConnectionsInEveryNetworkNamespace) {
  const Endpoint address = endpoint("127.0.0.1:7070");
  RemoteSockets pod(sandbox_.cgroup(), RemoteSockets::Network::kOwn);
  RemoteSockets other(sandbox_.cgroup(), RemoteSockets::Network::kOwn);
  for (RemoteSockets* each : {&pod, &other}) {
    ASSERT_EQ(each->listen(0, address), 0);
    ASSERT_EQ(each->connect(1, address), 0);
    ASSERT_EQ(each->accept(0, 2), 0);
  }
  attach_to(address);
  adopt();
  EXPECT_EQ(backend(0).adopted, 2U);
  EXPECT_EQ(backend(0).in_flight, 2U);
  EXPECT_EQ(take_census().drift, 0U);

  ASSERT_EQ(pod.close(1), 0);
  EXPECT_EQ(backend(0).in_flight, 1U);
  other.kill();  // with its namespace
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
  EXPECT_EQ(take_census().drift, 0U);
  // The control thread is where it was: its own loopback has this server.
  const TcpBackend here("127.0.0.1");
  int error = 0;
  close(connect_to(here.address(), false, &error));
  EXPECT_EQ(error, 0);
}

/// Trap 13: it would adopt too much, too.
TEST_F(Adopt, Trap13LeavesOthersAlone) {
  const TcpBackend server("127.0.0.1");
  const TcpBackend stranger("127.0.0.1");
  RemoteSockets inside(sandbox_.cgroup());
  int error = 0;
  const Fd outside(connect_to(server.address(), false, &error));  // the test is not in the cgroup
  ASSERT_EQ(error, 0);
  ASSERT_EQ(inside.connect(0, stranger.address()), 0);
  attach_to(server.address());
  EXPECT_EQ(adopt().adopted, 0U);
  EXPECT_EQ(backend(0).in_flight, 0U);
}

TEST_F(Adopt, TakesInAConnectThatIsUnderWay) {
  // Nobody answers the SYN: the listener's queue, of one place, is taken.
  const Endpoint address = endpoint("127.0.0.1:7071");
  const Fd listener(listen_at(address));
  ASSERT_TRUE(listener.valid());
  ASSERT_EQ(listen(listener.get(), 0), 0);
  int error = 0;
  const Fd queued(connect_to(address, false, &error));
  ASSERT_EQ(error, 0);
  Application client(sandbox_.cgroup(), [&address](int out) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const int begun = connect_socket(fd, address, false);
    (void)!write(out, &begun, sizeof(begun));
    pause();
  });
  int begun = 0;
  ASSERT_TRUE(client.read(&begun, sizeof(begun)));
  ASSERT_EQ(begun, EINPROGRESS);
  attach_to(address);
  EXPECT_EQ(adopt().adopted, 1U);
  EXPECT_EQ(backend(0).in_flight, 1U);
  client.kill();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
  EXPECT_EQ(backend(0).connect_failures, 0U) << "when it began is not known";
  EXPECT_EQ(take_census().drift, 0U);
}

TEST_F(Adopt, RecognizesTheServersEnd) {
  const Endpoint address = endpoint("127.0.0.1:7072");
  RemoteSockets server(sandbox_.cgroup());
  ASSERT_EQ(server.listen(0, address), 0);
  int error = 0;
  const Fd outside(connect_to(address, false, &error));
  ASSERT_EQ(error, 0);
  ASSERT_EQ(server.accept(0, 1), 0);
  attach_to(address);
  EXPECT_EQ(adopt().adopted, 1U);
  EXPECT_EQ(backend(0).adopted, 0U) << "no connection of a client";
  EXPECT_EQ(gauges(0), Gauges{});
  // Whatever it sends and receives moves no gauge.
  ASSERT_EQ(server.send(1, 5), 0);
  ASSERT_EQ(send(outside.get(), "q", 1, 0), 1);
  ASSERT_EQ(server.receive(1, 1), 0);
  EXPECT_EQ(gauges(0), Gauges{});
  EXPECT_EQ(take_census().drift, 0U);
}

TEST_F(Adopt, ClosingMeanwhileLeavesNothingBehind) {
  const TcpBackend server("127.0.0.1");
  attach_to(server.address());
  // Connections that the programs miss, because the address is no backend's when they begin, and
  // that end while they are taken in.
  std::vector<std::unique_ptr<Application>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<Application>(sandbox_.cgroup(), [&server](int) {
      for (;;) {
        int error = 0;
        close(connect_to(server.address(), false, &error));
      }
    }));
  }
  MapSet changed = maps();
  const weir_endpoint key = encode(server.address());
  weir_target target{};
  ASSERT_EQ(bpf_map_lookup_elem(changed.fd(kSvc), &key, &target), 0);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(3);
  while (std::chrono::steady_clock::now() < end) {
    ASSERT_EQ(bpf_map_delete_elem(changed.fd(kSvc), &key), 0);
    std::this_thread::sleep_for(std::chrono::microseconds(300));
    ASSERT_EQ(bpf_map_update_elem(changed.fd(kSvc), &key, &target, BPF_ANY), 0);
    ASSERT_EQ(take_census().corrected, 0U);
  }
  const std::uint64_t adopted = backend(0).adopted;
  std::printf("%lu adopted of %lu connects\n", adopted, adopted + backend(0).direct);
  EXPECT_GT(adopted, 0U);
  clients.clear();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; })) << gauges(0);
  take_census();
  const CensusReport report = take_census();
  EXPECT_EQ(report.drift, 0U);
  EXPECT_EQ(report.corrected, 0U);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
}

}  // namespace
}  // namespace weir::kernel
