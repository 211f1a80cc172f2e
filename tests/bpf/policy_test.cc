// SPDX-License-Identifier: Apache-2.0
//
// The policies on real connects, and what counts as load. (What they pick is held against an exact
// model in tests/unit/kernel/pick_test.cc; here they must arrive in the kernel.)
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cmath>

#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {
namespace {

using std::chrono::microseconds;

constexpr char kService[] = "10.96.0.10:80";

class PolicyTest : public DataPlaneTest {
 protected:
  void attach_policy(weir_policy policy, const std::vector<Endpoint>& backends,
                     const std::vector<BackendDecision>& decisions) {
    ServiceSpec spec = service(kService, backends);
    spec.policy = policy;
    attach({spec}, std::vector<double>(backends.size(), 1));
    const Status done = plane_->publish(decisions);
    ASSERT_TRUE(done.ok()) << done.error().message;
  }

  /// Connects that are held open until the destructor of the returned object.
  std::unique_ptr<Application> hold(int connections) {
    auto holder = std::make_unique<Application>(sandbox_.cgroup(), [connections](int out) {
      int failures = 0;
      for (int i = 0; i < connections; ++i) {
        int error = 0;
        connect_to(endpoint(kService), false, &error);
        failures += error != 0;
      }
      (void)!write(out, &failures, sizeof(failures));
      pause();
    });
    int failures = -1;
    EXPECT_TRUE(holder->read(&failures, sizeof(failures)));
    EXPECT_EQ(failures, 0);
    return holder;
  }

  void connect_and_close(int times) {
    const int failures = run_in<int>(sandbox_.cgroup(), [times] {
      int errors = 0;
      for (int i = 0; i < times; ++i) {
        int error = 0;
        close(connect_to(endpoint(kService), false, &error));
        errors += error != 0;
      }
      return errors;
    });
    ASSERT_EQ(failures, 0);
  }
};

/// Five standard deviations of a binomial count.
double tolerance(double times, double share) { return 5 * std::sqrt(times * share * (1 - share)); }

TEST_F(PolicyTest, PrequalPrefersTheFasterOfTwoColdOnes) {
  const TcpBackend fast("127.0.0.1");
  const TcpBackend slow("127.0.0.1");
  attach_policy(WEIR_POLICY_PREQUAL, {fast.address(), slow.address()},
                {{0, 1, microseconds(1000)}, {1, 1, microseconds(9000)}});
  ASSERT_TRUE(plane_->set_rif_limits({{0, 2}}).ok());
  connect_and_close(2000);
  // The slow one only when both draws give it, and the one that is drawn again: 1/8.
  EXPECT_NEAR(static_cast<double>(backend(1).connects), 250, tolerance(2000, 0.125));
}

TEST_F(PolicyTest, PrequalLeavesAHotBackendHoweverFast) {
  const TcpBackend fast("127.0.0.1");
  const TcpBackend slow("127.0.0.1");
  attach_policy(WEIR_POLICY_PREQUAL, {fast.address(), slow.address()},
                {{0, 1, microseconds(1000)}, {1, 1, microseconds(9000)}});
  ASSERT_TRUE(plane_->set_rif_limits({{0, 2}}).ok());
  const auto holder = hold(40);  // connections without a request: requests about to come
  EXPECT_EQ(backend(0).fresh + backend(1).fresh, 40U);
  const std::int64_t difference = std::int64_t{backend(0).fresh} - backend(1).fresh;
  // While both are hot the less loaded one is taken: they stay side by side.
  EXPECT_LE(std::abs(difference), 12);
}

TEST_F(PolicyTest, LeastInflightFillsEvenly) {
  const std::array<TcpBackend, 4> backends{TcpBackend("127.0.0.1"), TcpBackend("127.0.0.1"),
                                           TcpBackend("127.0.0.1"), TcpBackend("127.0.0.1")};
  attach_policy(
      WEIR_POLICY_LEAST_INFLIGHT,
      {backends[0].address(), backends[1].address(), backends[2].address(), backends[3].address()},
      {{0, 1, {}}, {1, 1, {}}, {2, 1, {}}, {3, 1, {}}});
  const auto holder = hold(100);
  for (std::size_t i = 0; i < backends.size(); ++i) EXPECT_EQ(backend(i).in_flight, 25U);
}

TEST_F(PolicyTest, P2cFollowsLoadForWeight) {
  const TcpBackend big("127.0.0.1");
  const TcpBackend small("127.0.0.1");
  attach_policy(WEIR_POLICY_P2C, {big.address(), small.address()}, {{0, 3, {}}, {1, 1, {}}});
  const auto holder = hold(400);
  EXPECT_NEAR(backend(0).in_flight, 300, 12);
}

TEST_F(PolicyTest, RoundRobinTakesTurns) {
  const TcpBackend a("127.0.0.1");
  const TcpBackend b("127.0.0.1");
  const TcpBackend c("127.0.0.1");
  attach_policy(WEIR_POLICY_ROUND_ROBIN, {a.address(), b.address(), c.address()},
                {{0, 1, {}}, {1, 1, {}}, {2, 1, {}}});
  connect_and_close(300);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(backend(i).connects, 100U);
}

TEST_F(PolicyTest, Trap19ConnectsUnderWayAreLoad) {
  // A backlog of one that nobody accepts from: further SYNs go unanswered.
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in loopback{};
  loopback.sin_family = AF_INET;
  loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(listener, reinterpret_cast<const sockaddr*>(&loopback), sizeof(loopback)), 0);
  ASSERT_EQ(listen(listener, 0), 0);
  attach_policy(WEIR_POLICY_P2C, {local_of(listener).value()}, {{0, 1, {}}});
  Application application(sandbox_.cgroup(), [](int out) {
    for (int i = 0; i < 5; ++i) {
      const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
      connect_socket(fd, endpoint(kService), false);
    }
    const int done = 1;
    (void)!write(out, &done, sizeof(done));
    pause();
  });
  int done = 0;
  ASSERT_TRUE(application.read(&done, sizeof(done)));
  EXPECT_EQ(backend(0).in_flight, 5U);
  EXPECT_LT(backend(0).established, 5U);
  application.kill();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
  EXPECT_EQ(backend(0).fresh, 0U);
  EXPECT_EQ(backend(0).established + backend(0).connect_failures, 5U);
  close(listener);
}

TEST_F(PolicyTest, Trap24ForkedSocketIsReleasedByItsLastHolder) {
  const TcpBackend server("127.0.0.1");
  attach_policy(WEIR_POLICY_P2C, {server.address()}, {{0, 1, {}}});
  Application application(sandbox_.cgroup(), [](int out) {
    int error = 0;
    const int fd = connect_to(endpoint(kService), false, &error);
    const pid_t child = fork();
    if (child == 0) {
      close(fd);
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    (void)!write(out, &error, sizeof(error));
    pause();
  });
  int error = -1;
  ASSERT_TRUE(application.read(&error, sizeof(error)));
  EXPECT_EQ(error, 0);
  EXPECT_EQ(backend(0).in_flight, 1U) << "the child's close is not the last";
  application.kill();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
  EXPECT_EQ(stat(WEIR_STAT_RELEASED), 1U);
}

TEST_F(PolicyTest, DirectConnectionIsLoadAndShowsItsTruePeer) {
  const TcpBackend server("127.0.0.1");
  attach_policy(WEIR_POLICY_P2C, {server.address()}, {{0, 1, {}}});
  const Endpoint target = server.address();
  Application application(sandbox_.cgroup(), [&](int out) {
    int error = 0;
    const Endpoint peer = peer_of(connect_to(target, false, &error)).value_or(Endpoint{});
    (void)!write(out, &peer, sizeof(peer));
    pause();
  });
  Endpoint peer;
  ASSERT_TRUE(application.read(&peer, sizeof(peer)));
  EXPECT_EQ(peer, target);
  EXPECT_EQ(backend(0).direct, 1U);
  EXPECT_EQ(backend(0).connects, 0U);
  EXPECT_EQ(backend(0).in_flight, 1U);
  application.kill();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
}

}  // namespace
}  // namespace weir::kernel
