// SPDX-License-Identifier: Apache-2.0
//
// Everything that applications do to sockets, by several processes at once, which are killed now
// and then: no gauge may lose count. WEIR_STORM_SECONDS makes it longer (`make bench-storm`).
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <random>

#include "tests/bpf/census_fixture.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

constexpr int kProcesses = 6;
constexpr char kLiveService[] = "10.96.0.10:80";
constexpr char kDeadService[] = "10.96.0.11:80";

std::chrono::seconds storm_time() {
  const char* const wanted = std::getenv("WEIR_STORM_SECONDS");
  return std::chrono::seconds(wanted != nullptr ? std::atoi(wanted) : 8);
}

/// One application in the storm; runs until it is killed.
class Stormer {
 public:
  explicit Stormer(std::mt19937::result_type seed) : random_(seed) {}

  [[noreturn]] void run() {
    signal(SIGCHLD, SIG_IGN);  // children of forks are reaped by the kernel
    for (;;) {
      static constexpr std::array kActions = {
          &Stormer::hold,      &Stormer::request,           &Stormer::reset, &Stormer::half_close,
          &Stormer::reconnect, &Stormer::give_up,           &Stormer::wait,  &Stormer::share,
          &Stormer::refused,   &Stormer::two_threads_of_one};
      (this->*kActions[random_() % kActions.size()])();
    }
  }

 private:
  int dial(const char* service = kLiveService) {
    int error = 0;
    return connect_to(endpoint(service), random_() % 2 == 0, &error);
  }

  void ask(int fd) {
    char byte = 'q';
    const timeval patience{0, 200'000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (send(fd, &byte, 1, MSG_NOSIGNAL) == 1) (void)!recv(fd, &byte, 1, 0);
  }

  /// A pool that keeps connections for a while.
  void hold() {
    const std::size_t slot = random_() % held_.size();
    if (held_[slot] >= 0) close(held_[slot]);
    held_[slot] = dial();
    if (random_() % 2 == 0) ask(held_[slot]);
  }
  void request() {
    const int fd = dial();
    for (unsigned i = random_() % 4; i > 0; --i) ask(fd);
    close(fd);
  }
  void reset() {
    const int fd = dial();
    if (random_() % 2 == 0) (void)!send(fd, "q", 1, MSG_NOSIGNAL);
    const linger at_once{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(fd);
  }
  void half_close() {
    const int fd = dial();
    (void)!send(fd, "q", 1, MSG_NOSIGNAL);
    shutdown(fd, random_() % 2 == 0 ? SHUT_WR : SHUT_RDWR);
    char byte = 0;
    (void)!recv(fd, &byte, 1, MSG_DONTWAIT);
    close(fd);
  }
  /// A second connect() on one socket, after it was dissolved or while it is under way.
  void reconnect() {
    const int fd = dial();
    if (random_() % 2 == 0) {
      const sockaddr nowhere{AF_UNSPEC, {}};
      (void)!::connect(fd, &nowhere, sizeof(nowhere));
    }
    (void)connect_socket(fd, endpoint(random_() % 2 == 0 ? kLiveService : kDeadService), false);
    ask(fd);
    close(fd);
  }
  void give_up() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    (void)connect_socket(fd, endpoint(kLiveService), false);
    close(fd);
  }
  void wait() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    (void)connect_socket(fd, endpoint(kLiveService), false);
    pollfd writable{fd, POLLOUT, 0};
    (void)poll(&writable, 1, 100);
    (void)!send(fd, "q", 1, MSG_NOSIGNAL);
    close(fd);
  }
  /// A connection that two processes have; each leaves it in its own way.
  void share() {
    const int fd = dial();
    const pid_t child = fork();
    if (child == 0) {
      if (random_() % 2 == 0) ask(fd);
      kill(getpid(), SIGKILL);
    }
    if (random_() % 2 == 0) ask(fd);
    close(fd);
  }
  void refused() { close(dial(kDeadService)); }
  /// One sends while the other closes.
  void two_threads_of_one() {
    const int fd = dial();
    std::thread sender([fd] { (void)!send(fd, "q", 1, MSG_NOSIGNAL); });
    shutdown(fd, SHUT_RDWR);
    sender.join();
    close(fd);
  }

  std::mt19937 random_;
  std::array<int, 16> held_ = [] {
    std::array<int, 16> none{};
    none.fill(-1);
    return none;
  }();
};

class Storm : public CensusTest, public testing::WithParamInterface<weir_request_clock> {};

TEST_P(Storm, LeavesEveryGaugeAtZero) {
  const TcpBackend first("127.0.0.1");
  const TcpBackend second("127.0.0.1", 1ms);
  const TcpBackend silent("127.0.0.1", std::nullopt);
  ServiceSpec dead = service(kDeadService, {endpoint("127.0.0.1:9")});
  dead.name = "dead";
  attach({service(kLiveService, {first.address(), second.address(), silent.address()}), dead},
         {4, 4, 1, 1}, GetParam());

  std::mt19937 random(1);
  std::vector<std::unique_ptr<Application>> stormers;
  const auto start_one = [&] {
    return std::make_unique<Application>(sandbox_.cgroup(),
                                         [seed = random()](int) { Stormer(seed).run(); });
  };
  for (int i = 0; i < kProcesses; ++i) stormers.push_back(start_one());
  const auto end = std::chrono::steady_clock::now() + storm_time();
  std::uint64_t kills = 0;
  std::uint64_t censuses_with_drift = 0;
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(100ms);
    stormers[random() % stormers.size()] = start_one();  // the one before is killed
    ++kills;
    const CensusReport report = take_census();
    if (report.drift != 0) ++censuses_with_drift;
    ASSERT_EQ(report.corrected, 0U) << "after " << report.censuses << " censuses";
  }
  stormers.clear();

  const auto all_gauges = [&] {
    std::uint64_t sum = 0;
    for (const BackendReading& each : snapshot().backends) {
      sum += each.in_flight + each.fresh + each.waiting + each.streaming;
    }
    return sum;
  };
  // Connections that were closed with data unsent take their time.
  EXPECT_TRUE(eventually([&] { return all_gauges() == 0; }));
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(gauges(i), Gauges{}) << "backend " << i;
  take_census();
  const CensusReport report = take_census();
  EXPECT_EQ(report.drift, 0U);
  EXPECT_EQ(report.corrected, 0U);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
  EXPECT_EQ(stat(WEIR_STAT_BAD_INDEX), 0U);

  std::uint64_t connects = 0;
  std::uint64_t requests = 0;
  for (const BackendReading& each : snapshot().backends) {
    connects += each.connects;
    requests += each.requests;
  }
  EXPECT_GT(connects, 1000U);
  EXPECT_GT(requests, 100U);
  std::printf("%lu connects, %lu requests, %lu kills, %lu censuses (%lu saw drift)\n", connects,
              requests, kills, report.censuses, censuses_with_drift);
}

INSTANTIATE_TEST_SUITE_P(Clocks, Storm, testing::Values(WEIR_CLOCK_TRACEPOINT, WEIR_CLOCK_SKB),
                         [](const auto& each) {
                           return each.param == WEIR_CLOCK_SKB ? "Skb" : "Tracepoint";
                         });

}  // namespace
}  // namespace weir::kernel
