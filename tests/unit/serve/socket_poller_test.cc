// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/socket_poller.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/post.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/serve/client_socket.h"

namespace weir::serve {
namespace {

using Outcome = ClientSocket::Outcome;

struct Recorder final : SocketPoller::Watcher {
  void on_socket(std::uint32_t events) override { told.push_back(events); }
  std::vector<std::uint32_t> told;
};

class SocketPollerTest : public ::testing::Test {
 protected:
  SocketPollerTest() {
    std::array<int, 2> ends{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()), 0);
    ours_.emplace(ends[0]);
    theirs_.emplace(ends[1]);
    EXPECT_TRUE(poller_.open());
  }

  void watch() { ASSERT_TRUE(poller_.watch(ours_->descriptor(), recorder_)); }
  /// What was told since the last call.
  std::vector<std::uint32_t> told() {
    context_.poll();
    return std::exchange(recorder_.told, {});
  }

  boost::asio::io_context context_{1};
  SocketPoller poller_{context_};
  Recorder recorder_;
  std::optional<ClientSocket> ours_;
  std::optional<ClientSocket> theirs_;
};

TEST_F(SocketPollerTest, TellsEachChangeOnce) {
  watch();
  EXPECT_EQ(told(), std::vector<std::uint32_t>{EPOLLOUT});
  EXPECT_EQ(told(), std::vector<std::uint32_t>{});
  EXPECT_EQ(theirs_->send("abc").bytes, 3U);
  EXPECT_EQ(told(), (std::vector<std::uint32_t>{EPOLLIN | EPOLLOUT}));
  EXPECT_EQ(told(), std::vector<std::uint32_t>{});  // though nobody has read it
  EXPECT_EQ(theirs_->send("d").bytes, 1U);
  EXPECT_EQ(told(), (std::vector<std::uint32_t>{EPOLLIN | EPOLLOUT}));
}

TEST_F(SocketPollerTest, TellsOfWhatWasThereBeforeItWatched) {
  EXPECT_EQ(theirs_->send("abc").bytes, 3U);
  watch();
  EXPECT_EQ(told(), (std::vector<std::uint32_t>{EPOLLIN | EPOLLOUT}));
}

TEST_F(SocketPollerTest, TellsOfTheEnd) {
  watch();
  told();
  EXPECT_TRUE(theirs_->end_sending());
  EXPECT_EQ(told(), (std::vector<std::uint32_t>{EPOLLIN | EPOLLOUT | EPOLLRDHUP}));
  std::array<char, 8> bytes{};
  EXPECT_EQ(ours_->receive(bytes).outcome, Outcome::kEnded);
}

TEST_F(SocketPollerTest, TellsWhenThereIsRoomAgain) {
  watch();
  told();
  const std::string much(1 << 16, 'x');
  std::size_t sent = 0;
  ClientSocket::Transfer last;
  while ((last = ours_->send(much)).outcome == Outcome::kDone) sent += last.bytes;
  EXPECT_EQ(last.outcome, Outcome::kWouldBlock);
  EXPECT_EQ(told(), std::vector<std::uint32_t>{});
  std::vector<char> bytes(sent);
  EXPECT_EQ(theirs_->receive(bytes).outcome, Outcome::kDone);
  while (theirs_->receive(bytes).outcome == Outcome::kDone) {
  }
  const auto events = told();
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back(), static_cast<std::uint32_t>(EPOLLOUT));
}

TEST_F(SocketPollerTest, TellsNothingOfWhatItForgot) {
  watch();
  told();
  EXPECT_EQ(theirs_->send("abc").bytes, 3U);
  poller_.forget(ours_->descriptor());
  EXPECT_EQ(told(), std::vector<std::uint32_t>{});
}

TEST_F(SocketPollerTest, KeepsTheContextRunningUntilItIsClosed) {
  boost::asio::post(context_, [this] { poller_.close(); });
  context_.run();
  EXPECT_TRUE(context_.stopped());
}

TEST(ClientSocket, WouldRatherComeBackThanWait) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()), 0);
  ClientSocket ours(ends[0]);
  ClientSocket theirs(ends[1]);
  std::array<char, 8> bytes{};
  EXPECT_EQ(ours.receive(bytes).outcome, Outcome::kWouldBlock);
  EXPECT_EQ(theirs.send("ab").bytes, 2U);
  const auto got = ours.receive(bytes);
  EXPECT_EQ(got.outcome, Outcome::kDone);
  EXPECT_EQ(got.bytes, 2U);
  theirs.close();
  EXPECT_EQ(ours.receive(bytes).outcome, Outcome::kEnded);
  EXPECT_EQ(ours.send("ab").outcome, Outcome::kEnded);
  EXPECT_FALSE(ours.from_loopback());  // an address of another family is none of the host's
}

}  // namespace
}  // namespace weir::serve
