// SPDX-License-Identifier: Apache-2.0
//
// What is known of a connection once it is over, and of one that never came about: bytes, round
// trip, retransmits, errors. On real sockets.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "tests/bpf/watch_fixture.h"
#include "tests/fixtures/packet_loss.h"
#include "tests/fixtures/remote_sockets.h"
#include "tests/fixtures/scripted_server.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kSent = 300'000;
constexpr std::size_t kReceived = 500'000;

/// Closes with a reset instead of a FIN.
void reset_on_close(int fd) {
  const linger now{1, 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

bool write_file(const char* path, const char* text) {
  std::ofstream file(path);
  file << text << std::flush;
  return file.good();
}

class Totals : public WatchTest {
 protected:
  void observe(const Endpoint& server) {
    breaker_.open_after_failures = 1000;
    attach({service(kWatchedService, {server})}, {1});
    watch({.connections = true, .lease = 30s});  // a dead host takes its time
  }

  /// Runs `client` with a connection to the service; it closes the descriptor, or exit() does.
  template <typename T>
  T exchange(const std::function<T(int fd)>& client) {
    return run_in<T>(sandbox_.cgroup(), [&] {
      int error = 0;
      const int fd = connect_to(endpoint(kWatchedService), false, &error);
      return error == 0 ? client(fd) : T{};
    });
  }

  /// The record of the only connection that has ended since the last call.
  CloseEvent close_event() {
    std::vector<Event> seen;
    EXPECT_TRUE(eventually([&] {
      for (Event& event : events()) seen.push_back(std::move(event));
      return !only<CloseEvent>(seen).empty();
    }));
    const auto closes = only<CloseEvent>(seen);
    EXPECT_EQ(closes.size(), 1U);
    return closes.empty() ? CloseEvent{} : closes.front();
  }

  FailureEvent failure_event() {
    std::vector<Event> seen;
    EXPECT_TRUE(eventually([&] {
      for (Event& event : events()) seen.push_back(std::move(event));
      return !only<FailureEvent>(seen).empty();
    }));
    const auto failures = only<FailureEvent>(seen);
    EXPECT_EQ(failures.size(), 1U);
    return failures.empty() ? FailureEvent{} : failures.front();
  }
};

/// Takes what the client sends, answers, and then does what the case says.
ScriptedServer bulk_server(std::function<void(int fd)> last) {
  return ScriptedServer([last = std::move(last)](int fd) {
    receive(fd, kSent);
    send_text(fd, std::string(kReceived, 'r'));
    last(fd);
  });
}

bool bulk_exchange(int fd) {
  return send_text(fd, std::string(kSent, 's')) && receive(fd, kReceived).size() == kReceived;
}

TEST_F(Totals, BytesAreExactHoweverTheConnectionIsClosed) {
  struct Case {
    const char* name;
    std::function<void(int fd)> server;
    std::function<void(int fd)> client;
  };
  const Case cases[] = {
      {"client first", drain, [](int) {}},
      {"client first, half, the server follows", drain,
       [](int fd) {
         shutdown(fd, SHUT_WR);
         drain(fd);
       }},
      {"client first, half, the server waits",
       [](int fd) {
         drain(fd);
         std::this_thread::sleep_for(50ms);
       },
       [](int fd) {
         shutdown(fd, SHUT_WR);
         drain(fd);
       }},
      {"server first", [](int) {}, [](int fd) { drain(fd); }},
      {"server first, half",
       [](int fd) {
         shutdown(fd, SHUT_WR);
         drain(fd);
       },
       [](int fd) { drain(fd); }},
      {"client resets", drain, reset_on_close},
  };
  for (const Case& each : cases) {
    const ScriptedServer server = bulk_server(each.server);
    observe(server.address());
    EXPECT_TRUE(exchange<bool>([&](int fd) {
      const bool good = bulk_exchange(fd);
      each.client(fd);
      close(fd);
      return good;
    })) << each.name;
    const CloseEvent event = close_event();
    EXPECT_EQ(event.bytes_sent, kSent) << each.name;
    EXPECT_EQ(event.bytes_received, kReceived) << each.name;
    EXPECT_EQ(event.requests, 1U) << each.name;
    EXPECT_FALSE(event.error.has_value()) << each.name;
    const BackendReading reading = backend(0);
    EXPECT_EQ(reading.bytes_sent, kSent) << each.name;
    EXPECT_EQ(reading.bytes_received, kReceived) << each.name;
    EXPECT_EQ(reading.closes, 1U) << each.name;
    EXPECT_EQ(reading.resets, 0U) << each.name;
    EXPECT_EQ(reading.established, 1U) << each.name;
    EXPECT_EQ(reading.in_flight, 0U) << each.name;
    reader_ = nullptr;
    ASSERT_TRUE(plane_->detach().ok());
    plane_ = nullptr;
  }
}

TEST_F(Totals, EmptyConnectionCarriedNothing) {
  const ScriptedServer server(drain);
  observe(server.address());
  const Connected connected = connect_once();
  ASSERT_EQ(connected.error, 0);
  const CloseEvent event = close_event();
  EXPECT_EQ(event.head.cookie, connected.cookie);
  EXPECT_EQ(event.bytes_sent, 0U);
  EXPECT_EQ(event.bytes_received, 0U);
  EXPECT_EQ(event.requests, 0U);
  EXPECT_GT(event.open, 0ns);
}

TEST_F(Totals, RoundTripIsTheNetworksAndNotTheServersTime) {
  static constexpr auto kThinking = 50ms;
  const ScriptedServer server([](int fd) {
    while (!receive_some(fd).empty()) {
      std::this_thread::sleep_for(kThinking);
      send_text(fd, "x");
    }
  });
  observe(server.address());
  EXPECT_TRUE(exchange<bool>([](int fd) {
    bool good = true;
    for (int i = 0; i < 3; ++i) good = good && send_text(fd, "q") && receive(fd, 1) == "x";
    close(fd);
    return good;
  }));
  const CloseEvent event = close_event();
  ASSERT_TRUE(event.min_rtt.has_value());
  EXPECT_LT(*event.min_rtt, kThinking / 2);
  EXPECT_GE(event.open, 3 * kThinking);
  const BackendReading reading = backend(0);
  ASSERT_EQ(reading.histogram(WEIR_HIST_RTT).count(), 1U);
  EXPECT_EQ(*reading.histogram(WEIR_HIST_RTT).mean(), *event.min_rtt);
  EXPECT_EQ(*reading.min_rtt, *event.min_rtt);
}

TEST_F(Totals, ResetByTheBackendIsCountedWithItsError) {
  const ScriptedServer server([](int fd) {
    receive(fd, 1);
    reset_on_close(fd);
  });
  observe(server.address());
  EXPECT_TRUE(exchange<bool>([](int fd) {
    char byte = 'q';
    const bool good = send_text(fd, "q") && recv(fd, &byte, 1, 0) < 0 && errno == ECONNRESET;
    close(fd);
    return good;
  }));
  EXPECT_EQ(close_event().error, ECONNRESET);
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.resets, 1U);
  EXPECT_EQ(reading.closes, 1U);
  EXPECT_EQ(reading.connect_failures, 0U);
  EXPECT_EQ(reading.in_flight, 0U);
  EXPECT_EQ(reading.waiting, 0U);
}

TEST_F(Totals, RefusedConnectIsCountedAsSuch) {
  Endpoint nobody;
  { const Fd gone = listen_on_loopback(&nobody); }
  observe(nobody);
  EXPECT_EQ(connect_once().error, ECONNREFUSED);
  EXPECT_EQ(failure_event().error, ECONNREFUSED);
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.connect_failures, 1U);
  EXPECT_EQ(reading.refused, 1U);
  EXPECT_EQ(reading.timed_out, 0U);
  EXPECT_EQ(reading.closes, 0U);
  EXPECT_EQ(reading.in_flight, 0U);
}

/// A server behind a network that loses packets.
class LossyTotals : public Totals {
 protected:
  void SetUp() override {
    Totals::SetUp();
    if (HasFailure() || IsSkipped()) return;
    require(loss_.problem());
    if (HasFailure() || IsSkipped()) return;
    server_ = std::make_unique<Application>(loss_.cgroup(), [](int out) {
      Endpoint address;
      const Fd listener = listen_on_loopback(&address);
      (void)!write(out, &address.port, sizeof(address.port));
      for (;;) {
        const Fd connection(accept(listener.get(), nullptr, nullptr));
        while (!receive_some(connection.get()).empty()) send_text(connection.get(), "x");
      }
    });
    std::uint16_t port = 0;
    ASSERT_TRUE(server_->read(&port, sizeof(port)));
    observe(endpoint("127.0.0.1:" + std::to_string(port)));
  }

  /// A counter of TCP in this network namespace, where only the test talks.
  static std::uint64_t tcp_counter(const char* path, const std::string& wanted) {
    std::ifstream file(path);
    std::string names;
    std::string values;
    while (std::getline(file, names) && std::getline(file, values)) {
      std::istringstream name(names);
      std::istringstream value(values);
      std::string key;
      std::string number;
      while (name >> key && value >> number) {
        if (key == wanted) return std::stoull(number);
      }
    }
    ADD_FAILURE() << "no " << wanted << " in " << path;
    return 0;
  }
  static std::uint64_t timeouts_of_tcp() {
    return tcp_counter("/proc/thread-self/net/netstat", "TCPTimeouts");
  }
  static std::uint64_t retransmits_of_tcp() {
    return tcp_counter("/proc/thread-self/net/snmp", "RetransSegs");
  }

  PacketLoss loss_;
  std::unique_ptr<Application> server_;
};

TEST_F(LossyTotals, DeadHostTimesTheConnectOut) {
  ASSERT_TRUE(write_file("/proc/sys/net/ipv4/tcp_syn_retries", "1"));
  // Linux 6.5 and later would retry a few times more before it counts.
  (void)write_file("/proc/sys/net/ipv4/tcp_syn_linear_timeouts", "0");
  loss_.set_percent(100);
  EXPECT_EQ(connect_once().error, ETIMEDOUT);
  EXPECT_EQ(failure_event().error, ETIMEDOUT);
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.connect_failures, 1U);
  EXPECT_EQ(reading.timed_out, 1U);
  EXPECT_EQ(reading.refused, 0U);
  EXPECT_EQ(reading.rtos, timeouts_of_tcp());
  EXPECT_EQ(reading.rtos, 2U);
  EXPECT_EQ(reading.in_flight, 0U);
  EXPECT_EQ(reading.fresh, 0U);
}

TEST_F(LossyTotals, ClientThatGivesUpFailsWithoutAnError) {
  loss_.set_percent(100);
  EXPECT_TRUE(run_in<bool>(sandbox_.cgroup(), [] {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const bool good = connect_socket(fd, endpoint(kWatchedService), false) == EINPROGRESS;
    close(fd);
    return good;
  }));
  EXPECT_EQ(failure_event().error, std::nullopt);
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.connect_failures, 1U);
  EXPECT_EQ(reading.timed_out, 0U);
  EXPECT_EQ(reading.refused, 0U);
  EXPECT_EQ(reading.in_flight, 0U);
}

TEST_F(LossyTotals, RetransmitsAndTimeoutsAgreeWithTcpsOwn) {
  RemoteSockets client(sandbox_.cgroup());
  ASSERT_EQ(client.connect(0, endpoint(kWatchedService)), 0);
  loss_.set_percent(100);
  ASSERT_EQ(client.send(0, 1), 0);
  EXPECT_TRUE(eventually([&] { return backend(0).rtos >= 2; }));
  EXPECT_EQ(backend(0).waiting, 1U);
  loss_.set_percent(0);
  ASSERT_EQ(client.receive(0, 1), 0);
  ASSERT_EQ(client.close(0), 0);

  const CloseEvent event = close_event();
  const BackendReading reading = backend(0);
  EXPECT_GE(reading.rtos, 2U);
  EXPECT_EQ(reading.rtos, timeouts_of_tcp());
  EXPECT_EQ(reading.retransmits, retransmits_of_tcp());
  EXPECT_EQ(reading.retransmits, event.retransmits);
  EXPECT_GE(reading.retransmits, 2U);
  EXPECT_EQ(reading.bytes_sent, 1U);
  EXPECT_EQ(reading.bytes_received, 1U);
  EXPECT_EQ(reading.requests, 1U);
  // Two timeouts, of 200 ms and 400 ms at least: what is sent again does not restart the clock.
  EXPECT_GT(*reading.ttfb().mean(), 500ms);
}

}  // namespace
}  // namespace weir::kernel
