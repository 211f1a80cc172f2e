// SPDX-License-Identifier: Apache-2.0
//
// Steering as an application sees it. The service addresses have no route in the sandbox: whatever
// is connected was steered.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "agent/kernel/fd.h"
#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {
namespace {

constexpr char kService4[] = "10.96.0.10:80";
constexpr char kService6[] = "[fd00::10]:80";

struct Outcome {
  int error = -1;
  bool has_peer = false;
  Endpoint peer;
};

Outcome connect_once(const std::string& cgroup, const Endpoint& target, bool as_v6) {
  return run_in<Outcome>(cgroup, [&] {
    Outcome outcome;
    const int fd = connect_to(target, as_v6, &outcome.error);
    if (const auto peer = peer_of(fd)) {
      outcome.has_peer = true;
      outcome.peer = *peer;
    }
    return outcome;
  });
}

class Steer : public DataPlaneTest {
 protected:
  Outcome connect_once(const Endpoint& target, bool as_v6) {
    return kernel::connect_once(sandbox_.cgroup(), target, as_v6);
  }
};

TEST_F(Steer, FollowsTheWeights) {
  const TcpBackend a("127.0.0.1");
  const TcpBackend b("127.0.0.1");
  const TcpBackend c("127.0.0.1");
  ServiceSpec spec = service(kService4, {a.address(), b.address(), c.address()});
  spec.policy = WEIR_POLICY_WEIGHTED_RANDOM;
  attach({spec}, {70, 20, 10});
  constexpr int kConnects = 2000;
  const int failed = run_in<int>(sandbox_.cgroup(), [] {
    int errors = 0;
    for (int i = 0; i < kConnects; ++i) {
      int error = 0;
      close(connect_to(endpoint(kService4), false, &error));
      errors += error != 0;
    }
    return errors;
  });
  ASSERT_EQ(failed, 0);

  const Snapshot now = snapshot();
  const std::array<double, 3> expected = {1400, 400, 200};
  double chi_square = 0;
  std::uint64_t connects = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(now.backends[i].connects) - expected[i];
    chi_square += difference * difference / expected[i];
    connects += now.backends[i].connects;
    EXPECT_EQ(now.backends[i].established, now.backends[i].connects);
    EXPECT_EQ(now.backends[i].connect_latency().count(), now.backends[i].connects);
    EXPECT_EQ(now.backends[i].in_flight, 0U);
  }
  EXPECT_LT(chi_square, 27.63) << "2 degrees of freedom, p = 1e-6";
  EXPECT_EQ(connects, kConnects);
  EXPECT_EQ(now.services[0].picks, kConnects);
  EXPECT_EQ(now.stats[WEIR_STAT_STEERED], kConnects);
  EXPECT_EQ(now.stats[WEIR_STAT_RELEASED], kConnects);
  EXPECT_TRUE(eventually([&] {
    return a.accepted() == static_cast<int>(now.backends[0].connects) &&
           b.accepted() == static_cast<int>(now.backends[1].connects) &&
           c.accepted() == static_cast<int>(now.backends[2].connects);
  })) << "the backends count what the kernel counted";
}

TEST_F(Steer, Trap01And11ShowsTheServiceToEveryKindOfSocketMappedOnesToo) {
  const TcpBackend v4("127.0.0.1");
  ServiceSpec four = service(kService4, {v4.address()});
  ServiceSpec six = service(kService6, {v4.address()});
  six.name = "six";
  attach({four, six}, {1, 1});
  const struct {
    const char* target;
    bool as_v6;
  } cases[] = {{kService4, false}, {kService4, true}, {kService6, true}};
  for (const auto& each : cases) {
    const Outcome outcome = connect_once(endpoint(each.target), each.as_v6);
    EXPECT_EQ(outcome.error, 0) << each.target << " " << std::strerror(outcome.error);
    ASSERT_TRUE(outcome.has_peer);
    EXPECT_EQ(outcome.peer.to_string(), each.target);
  }
  EXPECT_EQ(stat(WEIR_STAT_STEERED), 3U);
}

TEST_F(Steer, ReachesIpv6Backends) {
  const TcpBackend v6("::1");
  attach({service(kService6, {v6.address()})}, {1});
  const Outcome outcome = connect_once(endpoint(kService6), true);
  EXPECT_EQ(outcome.error, 0) << std::strerror(outcome.error);
  EXPECT_EQ(outcome.peer.to_string(), kService6);
  EXPECT_EQ(backend(0).established, 1U);
}

/// An IPv6 socket with IPV6_V6ONLY; its connect() to `target`: 0 or errno.
int connect_v6_only(const Endpoint& target) {
  const Fd fd(socket(AF_INET6, SOCK_STREAM, 0));
  const int on = 1;
  if (setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) != 0) return errno;
  return connect_socket(fd.get(), target, true) == 0 ? 0 : errno;
}

TEST_F(Steer, SocketThatIsIpv6OnlyNeverGetsAnIpv4Backend) {
  const TcpBackend v6("::1");
  const TcpBackend v4("127.0.0.1");
  attach({service(kService6, {v6.address(), v4.address()})}, {1, 999});
  const int error = run_in<int>(sandbox_.cgroup(), [] {
    int result = 0;
    for (int i = 0; i < 100 && result == 0; ++i) result = connect_v6_only(endpoint(kService6));
    return result;
  });
  EXPECT_EQ(error, 0) << std::strerror(error);
  EXPECT_EQ(backend(0).connects, 100U);
  EXPECT_EQ(backend(1).connects, 0U);
  EXPECT_EQ(backend(1).connect_failures, 0U);
  // Any other IPv6 socket may have either.
  EXPECT_EQ(connect_once(endpoint(kService6), true).error, 0);
  EXPECT_EQ(connect_once(endpoint(kService6), true).error, 0);
  EXPECT_GT(backend(1).connects, 0U);
}

TEST_F(Steer, SocketThatIsIpv6OnlyAccusesNobodyOfAPoolItCannotReach) {
  const TcpBackend v4("127.0.0.1");
  attach({service(kService6, {v4.address()})}, {1});
  const int error =
      run_in<int>(sandbox_.cgroup(), [] { return connect_v6_only(endpoint(kService6)); });
  EXPECT_EQ(error, ENETUNREACH) << "passed on unchanged";
  EXPECT_EQ(backend(0).connect_failures, 0U);
  EXPECT_EQ(stat(WEIR_STAT_PASS_POOL_EMPTY), 1U);
}

TEST_F(Steer, Ipv4SocketNeverGetsAnIpv6Backend) {
  const TcpBackend v6("::1");
  const TcpBackend v4("127.0.0.1");
  attach({service(kService4, {v6.address(), v4.address()})}, {99, 1});
  for (int i = 0; i < 20; ++i) EXPECT_EQ(connect_once(endpoint(kService4), false).error, 0);
  EXPECT_EQ(backend(0).connects, 0U);
  EXPECT_EQ(backend(1).connects, 20U);
}

TEST_F(Steer, LeavesOtherConnectionsAlone) {
  const TcpBackend other("127.0.0.1");
  attach({service(kService4, {})}, {});
  const Outcome outcome = connect_once(other.address(), false);
  EXPECT_EQ(outcome.error, 0);
  EXPECT_EQ(outcome.peer, other.address());
  EXPECT_EQ(stat(WEIR_STAT_PASS_NOT_SERVICE), 1U);
  EXPECT_EQ(stat(WEIR_STAT_STEERED), 0U);
}

TEST_F(Steer, SkipsABackendWhoseBreakerIsOpen) {
  const TcpBackend a("127.0.0.1");
  const TcpBackend b("127.0.0.1");
  attach({service(kService4, {a.address(), b.address()})}, {1, 1});
  ASSERT_TRUE(plane_->open_breaker(0).ok());
  for (int i = 0; i < 20; ++i) EXPECT_EQ(connect_once(endpoint(kService4), false).error, 0);
  EXPECT_EQ(backend(0).connects, 0U);
  EXPECT_EQ(backend(1).connects, 20U);
}

TEST_F(Steer, Trap10EmptyPoolRefusesWithTheRightErrno) {
  ServiceSpec six = service(kService6, {}, true);
  six.name = "six";
  attach({service(kService4, {}, true), six}, {});
  EXPECT_EQ(connect_once(endpoint(kService4), false).error, ECONNREFUSED);
  EXPECT_EQ(connect_once(endpoint(kService4), true).error, ECONNREFUSED);
  EXPECT_EQ(connect_once(endpoint(kService6), true).error, ECONNREFUSED);
  EXPECT_EQ(stat(WEIR_STAT_REFUSED_POOL_EMPTY), 3U);
  EXPECT_EQ(snapshot().services[0].misses, 2U);
}

TEST_F(Steer, EmptyPoolPassesTheConnectOn) {
  ServiceSpec six = service(kService6, {});
  six.name = "six";
  attach({service(kService4, {}), six}, {});
  // On to an address that this namespace has no route to.
  EXPECT_EQ(connect_once(endpoint(kService4), false).error, ENETUNREACH);
  EXPECT_EQ(connect_once(endpoint(kService4), true).error, ENETUNREACH);
  EXPECT_EQ(connect_once(endpoint(kService6), true).error, ENETUNREACH);
  EXPECT_EQ(stat(WEIR_STAT_PASS_POOL_EMPTY), 3U);
}

TEST_F(Steer, RefusedBackendIsCountedAndReleased) {
  Endpoint closed;
  { closed = TcpBackend("127.0.0.1").address(); }
  attach({service(kService4, {closed})}, {1});
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(connect_once(endpoint(kService4), false).error, ECONNREFUSED);
  }
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.connects, 3U);
  EXPECT_EQ(reading.established, 0U);
  EXPECT_EQ(reading.connect_failures, 3U);
  EXPECT_EQ(reading.consecutive_failures, 3U);
  EXPECT_EQ(reading.in_flight, 0U);
  const auto age = snapshot().taken - reading.last_failure;
  EXPECT_GE(age.count(), 0);
  EXPECT_LT(age, std::chrono::seconds(5));
}

TEST_F(Steer, RefusedConnectIsReleasedWhileItsSocketIsStillOpen) {
  Endpoint closed;
  { closed = TcpBackend("127.0.0.1").address(); }
  attach({service(kService4, {closed})}, {1});
  Application application(sandbox_.cgroup(), [](int out) {
    int error = 0;
    connect_to(endpoint(kService4), false, &error);
    (void)!write(out, &error, sizeof(error));
    pause();
  });
  int error = 0;
  ASSERT_TRUE(application.read(&error, sizeof(error)));
  EXPECT_EQ(error, ECONNREFUSED);
  EXPECT_EQ(backend(0).in_flight, 0U);
  EXPECT_EQ(stat(WEIR_STAT_RELEASED), 1U);
  application.kill();
  EXPECT_EQ(stat(WEIR_STAT_RELEASED), 1U);
}

TEST_F(Steer, Trap02And03LeavesUdpAlone) {
  attach({service(kService4, {}, true)}, {});
  const int error = run_in<int>(sandbox_.cgroup(), [] {
    return connect_socket(socket(AF_INET, SOCK_DGRAM, 0), endpoint(kService4), false);
  });
  EXPECT_EQ(error, ENETUNREACH);  // not ECONNREFUSED
  EXPECT_EQ(stat(WEIR_STAT_REFUSED_POOL_EMPTY), 0U);
}

TEST_F(Steer, Trap01AcceptedSocketsKeepTheirPeer) {
  const TcpBackend unused("127.0.0.1");
  attach({service(kService4, {unused.address()})}, {1});
  struct Both {
    Endpoint seen, truth;
  };
  // Server and client in the steered cgroup; the client has a steered connection as well.
  const Both both = run_in<Both>(sandbox_.cgroup(), [] {
    int ignored = 0;
    connect_to(endpoint(kService4), false, &ignored);
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    listen(listener, 1);
    const Endpoint there = local_of(listener).value_or(Endpoint{});
    Endpoint loopback = endpoint("127.0.0.1:1");
    loopback.port = there.port;
    const int client = connect_to(loopback, false, &ignored);
    const int accepted = accept(listener, nullptr, nullptr);
    return Both{peer_of(accepted).value_or(Endpoint{}), local_of(client).value_or(Endpoint{})};
  });
  EXPECT_NE(both.truth.port, 0);
  EXPECT_EQ(both.seen, both.truth);
}

TEST_F(Steer, Trap05NamesSurviveAStormOfConnections) {
  const TcpBackend server("127.0.0.1");
  ServiceSpec other = service("10.96.0.11:80", {server.address()});
  other.name = "other";
  attach({service(kService4, {server.address()}), other}, {1, 1});
  struct Peers {
    Endpoint first, second;
    int failures = 0;
  };
  const Peers peers = run_in<Peers>(sandbox_.cgroup(), [] {
    Peers result;
    int ignored = 0;
    const int first = connect_to(endpoint(kService4), false, &ignored);
    const int second = connect_to(endpoint("10.96.0.11:80"), false, &ignored);
    for (int i = 0; i < 2 * WEIR_NOTES; ++i) {  // past every table that could evict them
      int error = 0;
      const int fd = connect_to(endpoint(kService4), false, &error);
      const linger reset{1, 0};  // leaves no TIME_WAIT behind that would use up the ports
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
      close(fd);
      result.failures += error != 0;
    }
    result.first = peer_of(first).value_or(Endpoint{});
    result.second = peer_of(second).value_or(Endpoint{});
    return result;
  });
  EXPECT_EQ(peers.failures, 0);
  EXPECT_EQ(peers.first.to_string(), kService4);
  EXPECT_EQ(peers.second.to_string(), "10.96.0.11:80");
}

TEST_F(Steer, SuccessEndsTheRowOfFailures) {
  const TcpBackend alive("127.0.0.1");
  Endpoint closed;
  { closed = TcpBackend("127.0.0.1").address(); }
  attach({service(kService4, {closed, alive.address()})}, {1, 0});
  EXPECT_EQ(connect_once(endpoint(kService4), false).error, ECONNREFUSED);
  publish({0, 1});
  EXPECT_EQ(connect_once(endpoint(kService4), false).error, 0);
  EXPECT_EQ(backend(0).consecutive_failures, 1U);  // the other backend's success says nothing
  EXPECT_EQ(backend(1).consecutive_failures, 0U);
  EXPECT_EQ(backend(1).established, 1U);
}

TEST_F(Steer, SecondConnectOnOneSocketReleasesTheFirst) {
  const TcpBackend alive("127.0.0.1");
  const Endpoint unroutable = endpoint("10.1.2.3:80");
  attach({service(kService4, {unroutable}),
          [&] {
            ServiceSpec second = service("10.96.0.11:80", {alive.address()});
            second.name = "second";
            return second;
          }()},
         {1, 1});
  struct Errors {
    int first = -1, second = -1;
    Endpoint peer;
  };
  Application application(sandbox_.cgroup(), [](int out) {
    Errors errors;
    const int fd = connect_to(endpoint(kService4), false, &errors.first);
    errors.second = connect_socket(fd, endpoint("10.96.0.11:80"), false);
    errors.peer = peer_of(fd).value_or(Endpoint{});
    (void)!write(out, &errors, sizeof(errors));
    pause();
  });
  Errors errors;
  ASSERT_TRUE(application.read(&errors, sizeof(errors)));
  EXPECT_EQ(errors.first, ENETUNREACH);  // fails before any SYN: no state callback tells
  EXPECT_EQ(errors.second, 0);
  EXPECT_EQ(errors.peer.to_string(), "10.96.0.11:80");
  EXPECT_EQ(backend(0).in_flight, 0U);
  EXPECT_EQ(backend(0).connect_failures, 1U);
  EXPECT_EQ(backend(1).in_flight, 1U);
  EXPECT_EQ(stat(WEIR_STAT_RECONNECT_RELEASED), 0U);  // nothing was reserved without a SYN
  application.kill();
  EXPECT_TRUE(eventually([&] { return backend(1).in_flight == 0; }));
}

TEST_F(Steer, SecondConnectElsewhereShowsTheTruePeer) {
  const TcpBackend alive("127.0.0.1");
  attach({service(kService4, {endpoint("10.1.2.3:80")})}, {1});
  const Endpoint target = alive.address();
  const Outcome outcome = run_in<Outcome>(sandbox_.cgroup(), [&] {
    Outcome result;
    int ignored = 0;
    const int fd = connect_to(endpoint(kService4), false, &ignored);
    result.error = connect_socket(fd, target, false);
    result.peer = peer_of(fd).value_or(Endpoint{});
    return result;
  });
  EXPECT_EQ(outcome.error, 0);
  EXPECT_EQ(outcome.peer, target);
}

TEST_F(Steer, ConnectWithoutAFreePortIsAFailureOfItsBackend) {
  const TcpBackend server("127.0.0.1");
  attach({service(kService4, {server.address()})}, {1});
  const int error = run_in<int>(sandbox_.cgroup(), [] {
    // Two sockets of one local address: the second would be the same connection again.
    const auto bound = [](sockaddr_in local) {
      const int fd = socket(AF_INET, SOCK_STREAM, 0);
      const int on = 1;
      setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
      const auto* const address = reinterpret_cast<const sockaddr*>(&local);
      return bind(fd, address, sizeof(local)) == 0 ? fd : -1;
    };
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(80);
    to.sin_addr.s_addr = inet_addr("10.96.0.10");
    sockaddr_in local{};
    local.sin_family = AF_INET;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(local);
    const int first = bound(local);
    if (connect(first, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0) return -1;
    getsockname(first, reinterpret_cast<sockaddr*>(&local), &bytes);
    const int second = bound(local);
    if (second < 0) return -2;
    return connect(second, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0 ? 0 : errno;
  });
  EXPECT_EQ(error, EADDRNOTAVAIL);
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
  EXPECT_TRUE(eventually([&] { return backend(0).connect_failures == 1; }));
  EXPECT_EQ(backend(0).connects, 1U);  // the second never sent a SYN
  EXPECT_EQ(backend(0).established, 1U);
  EXPECT_EQ(snapshot().services[0].picks, 2U);
}

TEST_F(Steer, ConnectThatNeverSentASynIsAFailureOfItsBackend) {
  attach({service(kService4, {endpoint("10.1.2.3:80")})}, {1});
  EXPECT_EQ(connect_once(endpoint(kService4), false).error, ENETUNREACH);
  EXPECT_EQ(backend(0).connect_failures, 1U);
  EXPECT_EQ(backend(0).in_flight, 0U);
}

}  // namespace
}  // namespace weir::kernel
