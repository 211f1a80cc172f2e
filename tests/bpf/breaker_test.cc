// SPDX-License-Identifier: Apache-2.0
//
// The breaker in the kernel, on real connects. Nothing here publishes or reads between a failure
// and what follows from it: what happens, happens without user space.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>

#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {
namespace {

constexpr char kService[] = "10.96.0.10:80";

std::int64_t now_us() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t{time.tv_sec} * 1'000'000 + time.tv_nsec / 1000;
}

/// An address that nobody listens on.
Endpoint closed_port() { return TcpBackend("127.0.0.1").address(); }

/// What a row of connects met.
struct Tally {
  int succeeded = 0;
  int refused = 0;
  int other = 0;
  std::int64_t last_refused_us = 0;  ///< when the last refused one began
};

class BreakerTest : public DataPlaneTest {
 protected:
  BreakerTest() {
    breaker_.open = std::chrono::seconds(30);
    breaker_.max_open = std::chrono::seconds(60);
  }

  static ServiceSpec by_weight(const std::vector<Endpoint>& backends) {
    ServiceSpec spec = service(kService, backends);
    spec.policy = WEIR_POLICY_WEIGHTED_RANDOM;
    return spec;
  }

  Tally connect_times(int times) {
    return run_in<Tally>(sandbox_.cgroup(), [times] {
      Tally tally;
      for (int i = 0; i < times; ++i) {
        int error = 0;
        const std::int64_t begin = now_us();
        close(connect_to(endpoint(kService), false, &error));
        ++(error == 0 ? tally.succeeded : error == ECONNREFUSED ? tally.refused : tally.other);
        if (error == ECONNREFUSED) tally.last_refused_us = begin;
      }
      return tally;
    });
  }

  weir_breaker_state state(std::size_t i) { return backend(i).breaker.state; }
};

TEST_F(BreakerTest, ThirdRefusedConnectOpensIt) {
  const TcpBackend alive("127.0.0.1");
  attach({by_weight({closed_port(), alive.address()})}, {1, 1});
  const Tally tally = connect_times(1000);
  EXPECT_EQ(tally.refused, 3) << "one client: the fourth connect to it never happens";
  EXPECT_EQ(tally.succeeded, 997);
  EXPECT_EQ(state(0), WEIR_BREAKER_OPEN);
  EXPECT_EQ(backend(0).breaker_opens, 1U);
  EXPECT_EQ(backend(0).connects, 3U);
  EXPECT_EQ(backend(0).refused, 3U);
  EXPECT_EQ(snapshot().services[0].open, 1U);
  const auto open_for = backend(0).breaker.until - snapshot().taken;
  EXPECT_GT(open_for, std::chrono::seconds(20));
  EXPECT_LE(open_for, std::chrono::seconds(36));
}

TEST_F(BreakerTest, NoPickLaterThan10MsAfterTheThirdFailureWhateverTheCrowd) {
  struct Refused {
    std::int64_t begin_us = 0;
    std::int64_t end_us = 0;
  };
  const TcpBackend alive("127.0.0.1");
  attach({by_weight({closed_port(), alive.address()})}, {1, 1});
  std::vector<std::unique_ptr<Application>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<Application>(sandbox_.cgroup(), [](int out) {
      std::array<Refused, 16> refused{};
      std::size_t count = 0;
      for (int connect = 0; connect < 500; ++connect) {
        int error = 0;
        const std::int64_t begin = now_us();
        close(connect_to(endpoint(kService), false, &error));
        if (error == ECONNREFUSED && count < refused.size()) refused[count++] = {begin, now_us()};
      }
      (void)!write(out, refused.data(), sizeof(refused));
    }));
  }
  std::vector<std::int64_t> begins;
  std::vector<std::int64_t> ends;
  for (const auto& client : clients) {
    std::array<Refused, 16> all{};
    ASSERT_TRUE(client->read(all.data(), sizeof(all)));
    for (const Refused& refused : all) {
      if (refused.end_us == 0) continue;
      begins.push_back(refused.begin_us);
      ends.push_back(refused.end_us);
    }
  }
  std::sort(begins.begin(), begins.end());
  std::sort(ends.begin(), ends.end());
  ASSERT_GE(begins.size(), 3U);
  EXPECT_LE(begins.size(), 3U + 4U) << "at most one more per client was under way";
  EXPECT_LT(begins.back() - ends[2], 10'000);
}

TEST_F(BreakerTest, Trap22HalfOpenLetsOneTryAndClosesAfterFifteen) {
  breaker_.open = std::chrono::milliseconds(300);
  const Endpoint dead = closed_port();
  const TcpBackend alive("127.0.0.1");
  attach({by_weight({dead, alive.address()})}, {1, 1});
  EXPECT_EQ(connect_times(100).refused, 3);
  const TcpBackend returned("127.0.0.1", std::chrono::microseconds(0), dead.port);
  EXPECT_EQ(connect_times(50).refused, 0);
  EXPECT_EQ(returned.accepted(), 0) << "still open";
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_EQ(connect_times(200).refused, 0);
  EXPECT_EQ(state(0), WEIR_BREAKER_CLOSED);  // 1 + 2 + 4 + 8 successes
  EXPECT_EQ(snapshot().services[0].open, 0U);
  EXPECT_GE(returned.accepted(), 15);
}

TEST_F(BreakerTest, FailureInHalfOpenReopensForLonger) {
  breaker_.open = std::chrono::milliseconds(200);
  const TcpBackend alive("127.0.0.1");
  attach({by_weight({closed_port(), alive.address()})}, {1, 1});
  EXPECT_EQ(connect_times(100).refused, 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(260));
  EXPECT_EQ(connect_times(100).refused, 1) << "one token, one try";
  EXPECT_EQ(state(0), WEIR_BREAKER_OPEN);
  EXPECT_EQ(backend(0).breaker.level, 1U);
  EXPECT_EQ(backend(0).breaker_opens, 2U);
}

TEST_F(BreakerTest, OpenPoolFailsFastWithTheRightErrno) {
  ServiceSpec spec = by_weight({closed_port()});
  spec.refuse_when_empty = true;
  attach({spec}, {1});
  const Tally tally = connect_times(100);
  EXPECT_EQ(tally.refused, 100);
  EXPECT_EQ(backend(0).connects, 3U) << "the others were refused by the hook";
  EXPECT_EQ(stat(WEIR_STAT_REFUSED_POOL_EMPTY), 97U);
}

TEST_F(BreakerTest, Trap20MostlyOpenPoolPanicsRatherThanOverrunTheRest) {
  const TcpBackend alive("127.0.0.1");
  attach({by_weight({closed_port(), closed_port(), alive.address()})}, {1, 1, 1});
  const Tally tally = connect_times(600);
  EXPECT_GT(tally.refused, 200) << "panic: the breakers are ignored";
  EXPECT_GT(snapshot().services[0].panics, 300U);
  EXPECT_TRUE(snapshot().services[0].panic());
}

TEST_F(BreakerTest, Trap20ServiceThatRefusesNeverPanics) {
  const TcpBackend alive("127.0.0.1");
  ServiceSpec spec = by_weight({closed_port(), closed_port(), alive.address()});
  spec.refuse_when_empty = true;
  attach({spec}, {1, 1, 1});
  EXPECT_EQ(connect_times(600).refused, 6);
  EXPECT_EQ(snapshot().services[0].panics, 0U);
}

TEST_F(BreakerTest, BackupPoolServesUntilThePrimaryIsBack) {
  breaker_.open = std::chrono::milliseconds(300);
  const Endpoint dead = closed_port();
  const TcpBackend backup("127.0.0.1");
  ServiceSpec spec = by_weight({dead});
  spec.backup_backends.push_back({backup.address(), false});
  attach({spec}, {1, 1});
  EXPECT_EQ(connect_times(100).refused, 3);
  EXPECT_TRUE(eventually([&] { return backup.accepted() == 97; }));
  EXPECT_EQ(snapshot().services[0].backups, 97U);
  const TcpBackend returned("127.0.0.1", std::chrono::microseconds(0), dead.port);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_EQ(connect_times(100).refused, 0);
  EXPECT_EQ(state(0), WEIR_BREAKER_CLOSED);
  EXPECT_TRUE(eventually([&] { return returned.accepted() == 100; }));
}

TEST_F(BreakerTest, BackendWithoutAShareHasNoPartInThePanic) {
  const Endpoint dead = closed_port();
  const TcpBackend alive("127.0.0.1");
  const TcpBackend backup("127.0.0.1");
  ServiceSpec spec = by_weight({alive.address(), dead});
  spec.backup_backends.push_back({backup.address(), false});
  attach({spec}, {1, 0, 1});
  run_in<int>(sandbox_.cgroup(), [dead] {
    int error = 0;
    for (int i = 0; i < 5; ++i) close(connect_to(dead, false, &error));
    return error;
  });
  ASSERT_EQ(state(1), WEIR_BREAKER_OPEN);
  EXPECT_EQ(snapshot().services[0].open, 0U);
  EXPECT_EQ(connect_times(10).succeeded, 10);
  EXPECT_EQ(snapshot().services[0].backups, 0U) << "the one that counts is well";
  publish({1, 1, 1});
  EXPECT_EQ(snapshot().services[0].open, 1U);
  publish({1, 0, 1});
  EXPECT_EQ(snapshot().services[0].open, 0U);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
}

/// The failures of connects that sent no SYN show when their sockets are closed: maybe long after.
TEST_F(BreakerTest, LateFailureIsNotThatOfTheNextBackendInTheRecord) {
  attach({by_weight({endpoint("10.1.2.3:80")})}, {1});
  Application held(sandbox_.cgroup(), [](int out) {
    for (int i = 0; i < 5; ++i) {  // left open
      const int fd = socket(AF_INET, SOCK_STREAM, 0);
      (void)connect_socket(fd, endpoint(kService), false);
    }
    (void)!write(out, "", 1);
    pause();
  });
  char done = 0;
  ASSERT_TRUE(held.read(&done, 1));
  const TcpBackend second("127.0.0.1");
  plane_.reset();
  attach({by_weight({second.address()})}, {0, 1});
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // how long a record is reserved
  publish({0, 1});
  const TcpBackend third("127.0.0.1");
  plane_.reset();
  attach({by_weight({third.address()})}, {1});
  ASSERT_EQ(backend(0).address, third.address());
  held.kill();
  EXPECT_EQ(connect_times(5).succeeded, 5);
  EXPECT_EQ(backend(0).connect_failures, 0U);
  EXPECT_EQ(state(0), WEIR_BREAKER_CLOSED);
}

TEST_F(BreakerTest, Trap23GoesOnWithoutAnAgentOnTheLastWeights) {
  breaker_.open = std::chrono::milliseconds(300);
  const Endpoint dead = closed_port();
  const TcpBackend alive("127.0.0.1");
  attach({by_weight({dead, alive.address()})}, {1, 1});
  plane_.reset();  // as after kill -9: only the pins are left
  EXPECT_EQ(connect_times(200).refused, 3);
  const TcpBackend returned("127.0.0.1", std::chrono::microseconds(0), dead.port);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_EQ(connect_times(200).refused, 0);
  EXPECT_TRUE(eventually([&] { return returned.accepted() >= 15; })) << returned.accepted();
  const auto reader = open_pinned(sandbox_.pin_root()).value()->read().value();
  EXPECT_EQ(reader.backends[0].breaker.state, WEIR_BREAKER_CLOSED);
  EXPECT_EQ(reader.backends[0].breaker_opens, 1U);
}

TEST_F(BreakerTest, UnroutableBackendIsTakenOutToo) {
  const TcpBackend alive("127.0.0.1");
  attach({by_weight({endpoint("10.1.2.3:80"), alive.address()})}, {1, 1});
  const Tally tally = connect_times(300);
  EXPECT_EQ(tally.other, 3) << "ENETUNREACH, before any SYN";
  EXPECT_EQ(tally.succeeded, 297);
  EXPECT_EQ(state(0), WEIR_BREAKER_OPEN);
  EXPECT_EQ(backend(0).connects, 0U);
  EXPECT_EQ(backend(0).in_flight, 0U);
}

TEST_F(BreakerTest, SecondTryOnOneSocketGoesElsewhere) {
  const TcpBackend alive("127.0.0.1");
  breaker_.open_after_failures = 1000;
  attach({by_weight({closed_port(), alive.address()})}, {1000, 1});
  const int retried = run_in<int>(sandbox_.cgroup(), [] {
    int count = 0;
    for (int i = 0; i < 200; ++i) {
      int error = 0;
      const int fd = connect_to(endpoint(kService), false, &error);
      if (error == ECONNREFUSED && connect_socket(fd, endpoint(kService), false) == 0) ++count;
      close(fd);
    }
    return count;
  });
  EXPECT_GT(retried, 190);
  EXPECT_EQ(backend(1).in_flight, 0U);
}

}  // namespace
}  // namespace weir::kernel
