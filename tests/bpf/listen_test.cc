// SPDX-License-Identifier: Apache-2.0
//
// The program that chooses among listeners, on real sockets. A connect() over loopback has passed
// its whole handshake when it returns, so every count here is exact.
#include "agent/kernel/listen_steering.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "agent/kernel/fd.h"
#include "tests/fixtures/kernel_sandbox.h"

namespace weir::kernel {
namespace {

constexpr std::uint16_t kPort = 8099;

sockaddr_in loopback() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

/// A listening socket, its seat, and what was accepted from it.
struct Listener {
  Fd socket_fd;
  std::unique_ptr<ListenerSeat> seat;
  std::vector<Fd> accepted;

  /// As an I/O thread leaves: first the seat, then the socket.
  void close() {
    seat.reset();
    socket_fd = Fd();
  }

  /// Accepts what is queued; how many that were.
  int accept_all() {
    int count = 0;
    for (;; ++count) {
      Fd client(accept4(socket_fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!client.valid()) return count;
      if (seat) seat->accepted();
      accepted.push_back(std::move(client));
    }
  }

  [[nodiscard]] std::uint32_t queued() const {
    tcp_info info{};
    socklen_t bytes = sizeof(info);
    getsockopt(socket_fd.get(), IPPROTO_TCP, TCP_INFO, &info, &bytes);
    return info.tcpi_unacked;
  }
};

class Listen : public testing::Test {
 protected:
  void SetUp() override {
    const std::string& problem = sandbox_.problem();
    if (problem.empty()) return;
    const char* const ci = std::getenv("CI");
    if (ci != nullptr && std::string(ci) == "true") FAIL() << problem;
    GTEST_SKIP() << "not run: " << problem;
  }

  [[nodiscard]] ListenSteering::Options options(std::uint16_t port = kPort) const {
    Endpoint address = Endpoint::parse("127.0.0.1:1").value();
    address.port = port;
    return {sandbox_.pin_root(), address, std::nullopt};
  }

  std::unique_ptr<ListenSteering> open(std::optional<bool> migrate = std::nullopt) {
    auto with = options();
    with.migrate = migrate;
    auto opened = ListenSteering::open(with);
    EXPECT_TRUE(opened.ok()) << (opened ? "" : opened.error().message);
    return opened ? std::move(*opened) : nullptr;
  }

  /// One more listener on the port; without a group it is left to the kernel's hash.
  static Listener listener(ListenerGroup* group, bool defer_accept = false) {
    Listener made;
    made.socket_fd = Fd(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int fd = made.socket_fd.get();
    const int on = 1;
    const int seconds = 30;
    const sockaddr_in address = loopback();
    EXPECT_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)), 0);
    if (defer_accept) {
      EXPECT_EQ(setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds)), 0);
    }
    EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::listen(fd, 1024), 0);
    if (group != nullptr) {
      auto seat = group->join(fd);
      EXPECT_TRUE(seat.ok()) << (seat ? "" : seat.error().message);
      if (seat) made.seat = std::move(*seat);
    }
    return made;
  }

  static std::vector<Fd> connect(int count) {
    std::vector<Fd> clients;
    const sockaddr_in address = loopback();
    for (int i = 0; i < count; ++i) {
      clients.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      EXPECT_EQ(::connect(clients.back().get(), reinterpret_cast<const sockaddr*>(&address),
                          sizeof(address)),
                0)
          << std::strerror(errno);
    }
    return clients;
  }

  /// How many of the clients can send a byte and get one back, when `listener` serves them all.
  static int served(const std::vector<Fd>& clients, Listener& by) {
    for (const Fd& client : clients) (void)send(client.get(), "?", 1, MSG_NOSIGNAL);
    by.accept_all();
    for (const Fd& server : by.accepted) (void)send(server.get(), "!", 1, MSG_NOSIGNAL);
    int answered = 0;
    for (const Fd& client : clients) {
      pollfd wait{client.get(), POLLIN, 0};
      char byte = 0;
      answered += poll(&wait, 1, 1000) == 1 && recv(client.get(), &byte, 1, 0) == 1 ? 1 : 0;
    }
    return answered;
  }

  /// Of 20 connections on two listeners that accept none, how many survive that the first listener
  /// closes.
  static int survivors(ListenerGroup* group, bool half_open) {
    Listener closing = listener(group, half_open);
    Listener staying = listener(group, half_open);
    const std::vector<Fd> clients = connect(20);
    if (half_open) {
      EXPECT_EQ(closing.queued() + staying.queued(), 0U) << "still in SYN_RECV";
    } else {
      EXPECT_GT(closing.queued(), 0U);
    }
    closing.close();
    return served(clients, staying);
  }

  KernelSandbox sandbox_;
};

TEST_F(Listen, LeastDepthIsChosen) {
  const auto group = open();
  std::vector<Listener> all;
  for (int i = 0; i < 4; ++i) all.push_back(listener(group.get()));
  const auto clients = connect(40);
  for (Listener& one : all) {
    EXPECT_EQ(one.queued(), 10U);
    EXPECT_EQ(one.seat->read().depth, 10U);
  }
  EXPECT_EQ(all[0].accept_all(), 10);
  const auto more = connect(10);  // the one that is empty now
  EXPECT_EQ(all[0].accept_all(), 10);
}

TEST_F(Listen, RequestsInProgressCount) {
  const auto group = open();
  Listener busy = listener(group.get());
  Listener idle = listener(group.get());
  busy.seat->set_waiting(5);
  const auto clients = connect(5);
  EXPECT_EQ(idle.queued(), 5U);
  EXPECT_EQ(busy.queued(), 0U);
  idle.accept_all();
  busy.seat->set_waiting(0);
  idle.seat->set_waiting(1);
  const auto more = connect(1);
  EXPECT_EQ(busy.queued(), 1U);
}

TEST_F(Listen, EqualsShareEvenly) {
  const auto group = open();
  Listener one = listener(group.get());
  Listener other = listener(group.get());
  int first = 0;
  for (int i = 0; i < 400; ++i) {
    const auto client = connect(1);
    first += one.accept_all();
    other.accept_all();
  }
  // Binomial: 400 fair coins stay within 200 +- 60 with a probability of 1 - 2e-9.
  EXPECT_GT(first, 140);
  EXPECT_LT(first, 260);
}

// Trap 25: a hash knows nothing of queues, and a thread that hangs goes on getting its share.
TEST_F(Listen, Trap25StalledThreadGetsNoMoreThanItsBacklog) {
  const auto group = open();
  Listener stalled = listener(group.get());
  Listener working = listener(group.get());
  std::vector<Fd> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::move(connect(1).front()));
    working.accept_all();
  }
  EXPECT_LE(stalled.queued(), 1U);
}

TEST_F(Listen, Trap25HashAloneFeedsAStalledThread) {
  Listener stalled = listener(nullptr);
  Listener working = listener(nullptr);
  std::vector<Fd> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::move(connect(1).front()));
    working.accept_all();
  }
  EXPECT_GT(stalled.queued(), 50U);
}

TEST_F(Listen, QueuedConnectionsMoveWhenTheirListenerCloses) {
  const auto group = open();
  EXPECT_TRUE(group->migrates());
  EXPECT_EQ(survivors(group.get(), /*half_open=*/false), 20);
}

TEST_F(Listen, HalfOpenConnectionsMoveWhenTheirListenerCloses) {
  const auto group = open();
  EXPECT_EQ(survivors(group.get(), /*half_open=*/true), 20);
}

// What the two tests above would see of a program that does not migrate.
TEST_F(Listen, WithoutMigrationTheyAreLost) {
  const auto group = open(/*migrate=*/false);
  EXPECT_FALSE(group->migrates());
  EXPECT_EQ(survivors(group.get(), /*half_open=*/false), 10);
}

TEST_F(Listen, WithoutMigrationHalfOpenOnesAreLost) {
  const auto group = open(/*migrate=*/false);
  EXPECT_EQ(survivors(group.get(), /*half_open=*/true), 10);
}

TEST_F(Listen, WithoutAProgramTheyAreLost) {
  EXPECT_LT(survivors(nullptr, /*half_open=*/false), 20);
}

TEST_F(Listen, MovedConnectionsAreCounted) {
  const auto group = open();
  Listener closing = listener(group.get());
  Listener staying = listener(group.get());
  const auto clients = connect(20);
  closing.close();
  EXPECT_EQ(staying.queued(), 20U);
  EXPECT_EQ(staying.seat->read().taken_over, 10U);
  EXPECT_EQ(staying.seat->read().chosen, 20U);
  EXPECT_EQ(staying.accept_all(), 20);
  EXPECT_EQ(staying.seat->read().depth, 0U);
}

// A killed agent closes its sockets without a word; its records stay behind.
TEST_F(Listen, SlotsOfAKilledAgentArePassedOver) {
  const auto group = open();
  std::vector<Listener> killed;
  for (int i = 0; i < 12; ++i) killed.push_back(listener(group.get()));
  Listener alive = listener(group.get());
  alive.seat->set_waiting(1000);  // the dead look better
  for (Listener& one : killed) one.socket_fd = Fd();
  const auto clients = connect(20);
  EXPECT_EQ(alive.accept_all(), 20);
}

TEST_F(Listen, HandshakesThatNeverFinishAreForgotten) {
  const auto group = open();
  Listener flooded = listener(group.get(), /*defer_accept=*/true);
  const auto clients = connect(10);
  EXPECT_EQ(flooded.seat->read().depth, 10U);
  for (int i = 0; i < 4; ++i) flooded.seat->set_queued(flooded.queued());
  EXPECT_EQ(flooded.seat->read().depth, 0U);

  // They come after all.
  EXPECT_EQ(served(clients, flooded), 10);
  flooded.seat->set_queued(0);
  EXPECT_EQ(flooded.seat->read().depth, 0U);
  const auto one_more = connect(1);
  EXPECT_EQ(flooded.seat->read().depth, 1U);
}

TEST_F(Listen, ConnectionsFromBeforeItJoinedDoNotCountTwice) {
  const auto group = open();
  Listener early = listener(nullptr);
  const auto clients = connect(6);
  early.seat = std::move(group->join(early.socket_fd.get()).value());
  EXPECT_EQ(early.accept_all(), 6);
  early.seat->set_queued(early.queued());
  const auto more = connect(2);
  EXPECT_EQ(early.seat->read().depth, 2U);
}

// Packets of a connection that is gone come by the listener, too.
TEST_F(Listen, OnlyWhatBeginsAConnectionIsCounted) {
  const auto group = open();
  Listener one = listener(group.get());
  const auto begun = connect(1);
  // A client that believes to be connected to a server that knows nothing of it.
  const Fd lost(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback();
  int repair = 1;
  ASSERT_EQ(setsockopt(lost.get(), IPPROTO_TCP, TCP_REPAIR, &repair, sizeof(repair)), 0);
  ASSERT_EQ(::connect(lost.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  repair = 0;
  ASSERT_EQ(setsockopt(lost.get(), IPPROTO_TCP, TCP_REPAIR, &repair, sizeof(repair)), 0);
  (void)send(lost.get(), "x", 1, MSG_NOSIGNAL);
  pollfd answer{lost.get(), POLLIN, 0};
  EXPECT_EQ(poll(&answer, 1, 1000), 1);
  EXPECT_NE(answer.revents & POLLHUP, 0) << "the listener has not reset it";
  EXPECT_EQ(one.seat->read().chosen, 1U);
}

TEST_F(Listen, SuccessorSharesTheMapsAndTakesWhatIsQueued) {
  const auto old_agent = open();
  Listener old_one = listener(old_agent.get());
  auto found = ListenSteering::open_running(options());
  ASSERT_TRUE(found.ok()) << found.error().message;
  const auto successor = std::move(*found);
  ASSERT_NE(old_agent->owner(), successor->owner());
  EXPECT_TRUE(successor->has_listener_of(old_agent->owner()));
  EXPECT_FALSE(old_agent->has_listener_of(successor->owner()));

  const auto before = connect(3);
  Listener new_one = listener(successor.get());
  EXPECT_TRUE(old_agent->has_listener_of(successor->owner()));
  const auto meanwhile = connect(3);
  EXPECT_EQ(old_one.queued(), 3U);
  EXPECT_EQ(new_one.queued(), 3U);

  old_agent->leave();
  EXPECT_FALSE(successor->has_listener_of(old_agent->owner()));
  const auto after = connect(10);
  EXPECT_EQ(old_one.queued(), 3U);
  EXPECT_EQ(new_one.queued(), 13U);
  old_one.close();
  EXPECT_EQ(new_one.queued(), 16U);

  new_one.socket_fd = Fd();  // killed
  EXPECT_FALSE(old_agent->has_listener_of(successor->owner()));
}

TEST_F(Listen, NothingToShareWhereNobodyListens) {
  const auto group = open();
  auto elsewhere = ListenSteering::open_running(options(kPort + 1));
  ASSERT_FALSE(elsewhere.ok());
  EXPECT_EQ(elsewhere.error().code, Code::kNotFound);
}

TEST_F(Listen, MapsAreAdoptedAndThoseOfOtherAddressesRemoved) {
  const auto count = [this] {
    int directories = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(sandbox_.pin_root() + "/listen")) {
      ++directories;
    }
    return directories;
  };
  {
    const auto killed = open();
    Listener one = listener(killed.get());
    one.seat.release();  // NOLINT: as after kill -9, its record stays
  }
  EXPECT_EQ(count(), 1);
  const auto next = open();
  Listener one = listener(next.get());
  const auto clients = connect(5);
  EXPECT_EQ(one.queued(), 5U);
  auto elsewhere = ListenSteering::open(options(kPort + 1));
  ASSERT_TRUE(elsewhere.ok());
  EXPECT_EQ(count(), 1);
}

TEST_F(Listen, TwoAgentsOf256ThreadsFit) {
  const auto group = open();
  std::vector<Listener> all;
  for (int i = 0; i < 512; ++i) all.push_back(listener(group.get()));
  const Listener alone = listener(nullptr);
  auto refused = group->join(alone.socket_fd.get());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  const auto clients = connect(512);
  for (const Listener& one : all) ASSERT_EQ(one.queued(), 1U);
}

}  // namespace
}  // namespace weir::kernel
