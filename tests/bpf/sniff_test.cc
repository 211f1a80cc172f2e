// SPDX-License-Identifier: Apache-2.0
//
// What the payload tells of requests: interim responses, HTTP/2, TLS. On real sockets, with each
// way to see them.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cstdio>
#include <filesystem>

#include "tests/bpf/observe_fixture.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kRequest =
    "POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\n\r\n";
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::string_view kHints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";
constexpr std::string_view kFinal = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
constexpr auto kThinking = 30ms;

class Sniff : public ObserveTest {};
WEIR_WITH_EVERY_SIGHT(Sniff);

TEST_P(Sniff, EarlyHintsAreNotTheFirstByte) {
  const ScriptedServer server([](int fd) {
    for (int i = 0; i < 3; ++i) {
      receive(fd, kRequest.size());
      send_text(fd, kHints);
      std::this_thread::sleep_for(kThinking);
      send_text(fd, kFinal);
    }
    drain(fd);
  });
  observe(server.address());
  EXPECT_TRUE(exchange([](int fd) {
    for (const std::size_t at_once : {std::size_t{11}, std::size_t{12}, kHints.size()}) {
      // The hints are read as they come, whatever the pieces.
      if (!send_text(fd, kRequest) || receive(fd, kHints.size(), at_once) != kHints) return false;
      if (receive(fd, kFinal.size()) != kFinal) return false;
    }
    return true;
  }));
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.requests, 3U);
  EXPECT_EQ(reading.interim, 3U);
  ASSERT_EQ(reading.ttfb().count(), 3U);
  EXPECT_GE(*reading.ttfb().quantile(0), kThinking);
  expect_settled();
}

TEST_P(Sniff, ContinueIsNotTheFirstByteAndTheUploadNotTheBackendsTime) {
  const std::string body(100'000, 'b');
  const ScriptedServer server([&](int fd) {
    receive(fd, kRequest.size());
    send_text(fd, kContinue);
    receive(fd, body.size());
    std::this_thread::sleep_for(kThinking);
    send_text(fd, kFinal);
    drain(fd);
  });
  observe(server.address());
  EXPECT_TRUE(exchange([&](int fd) {
    if (!send_text(fd, kRequest) || receive(fd, kContinue.size()) != kContinue) return false;
    std::this_thread::sleep_for(5 * kThinking);  // as if the body had to be made first
    return send_text(fd, body) && receive(fd, kFinal.size()) == kFinal;
  }));
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.requests, 1U);
  EXPECT_EQ(reading.interim, 1U);
  ASSERT_EQ(reading.ttfb().count(), 1U);
  EXPECT_GE(*reading.ttfb().mean(), kThinking);
  EXPECT_LT(*reading.ttfb().mean(), 4 * kThinking);
  expect_settled();
}

/// Interim and final response in one segment; read at once, in pieces, and along the seam.
TEST_P(Sniff, FinalResponseBehindInterimOnesInOneSegmentCounts) {
  const std::string both = std::string(kContinue) + std::string(kHints) + std::string(kFinal);
  const ScriptedServer server([&](int fd) {
    for (int i = 0; i < 3; ++i) {
      receive(fd, kRequest.size());
      send_text(fd, both);
    }
    drain(fd);
  });
  observe(server.address());
  EXPECT_TRUE(exchange([&](int fd) {
    for (const std::size_t at_once : {both.size(), std::size_t{7}, kContinue.size()}) {
      if (!send_text(fd, kRequest) || receive(fd, both.size(), at_once) != both) return false;
    }
    return true;
  }));
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.requests, 3U);
  EXPECT_EQ(reading.interim, 6U);
  EXPECT_EQ(reading.ttfb().count(), 3U);
  EXPECT_EQ(reading.histogram(WEIR_HIST_DURATION).count(), 3U);
  expect_settled();
}

/// Looked at again and again before it is read: counted once, and no first byte by any piece.
TEST_P(Sniff, PeekedInterimResponseIsStillOne) {
  const ScriptedServer server([](int fd) {
    receive(fd, kRequest.size());
    send_text(fd, kContinue);
    receive(fd, kRequest.size());
    std::this_thread::sleep_for(kThinking);
    send_text(fd, kFinal);
    drain(fd);
  });
  observe(server.address());
  EXPECT_TRUE(exchange([](int fd) {
    std::array<char, 64> buffer{};
    if (!send_text(fd, kRequest)) return false;
    for (const std::size_t bytes : {std::size_t{1}, std::size_t{20}, kContinue.size()}) {
      if (recv(fd, buffer.data(), bytes, MSG_PEEK | MSG_WAITALL) <= 0) return false;
    }
    return receive(fd, kContinue.size()) == kContinue && send_text(fd, kRequest) &&
           receive(fd, kFinal.size()) == kFinal;
  }));
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.requests, 1U);
  EXPECT_EQ(reading.interim, 1U);
  ASSERT_EQ(reading.ttfb().count(), 1U);
  EXPECT_GE(*reading.ttfb().mean(), kThinking);
  expect_settled();
}

TEST_P(Sniff, LongHintsEndWhereTheirHeadEnds) {
  // Two chunks and more of the search for the empty line.
  const std::string hints =
      "HTTP/1.1 103 Early Hints\r\nLink: " + std::string(700, 'l') + "\r\n\r\n";
  const ScriptedServer server([&](int fd) {
    receive(fd, kRequest.size());
    send_text(fd, hints + std::string(kFinal));
    drain(fd);
  });
  observe(server.address());
  EXPECT_TRUE(exchange([&](int fd) {
    return send_text(fd, kRequest) && receive(fd, hints.size()) == hints &&
           receive(fd, kFinal.size()) == kFinal;
  }));
  EXPECT_EQ(backend(0).requests, 1U);
  EXPECT_EQ(backend(0).interim, 1U);
}

TEST_P(Sniff, Trap06Http2ConnectionIsMarkedAndItsStreamsAreNotMistakenForRequests) {
  static constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  const std::string first = std::string(kPreface) + std::string("\0\0\0\4\0\0\0\0\0", 9);
  const std::string frame(40, 'f');
  const ScriptedServer server([&](int fd) {
    receive(fd, first.size());
    send_text(fd, frame);
    for (int i = 0; i < 5; ++i) {
      receive(fd, frame.size());
      send_text(fd, frame);
    }
    drain(fd);
  });
  observe(server.address());
  Application client(sandbox_.cgroup(), [&](int out) {
    int error = 0;
    const int fd = connect_to(endpoint(kWatchedService), false, &error);
    char good = send_text(fd, first) && receive(fd, frame.size()) == frame;
    for (int i = 0; i < 5; ++i) {
      good = good && send_text(fd, frame) && receive(fd, frame.size()) == frame;
    }
    (void)!write(out, &good, 1);
    pause();
  });
  char good = 0;
  ASSERT_TRUE(client.read(&good, 1));
  EXPECT_EQ(good, 1);

  BackendReading reading = backend(0);
  EXPECT_EQ(reading.mux, 1U);
  EXPECT_EQ(reading.in_flight, 1U);
  EXPECT_EQ(reading.streaming, 1U);  // by silence, not by requests, it becomes idle
  client.kill();
  ASSERT_TRUE(eventually([&] { return backend(0).closes == 1; }));
  reading = backend(0);
  EXPECT_EQ(reading.mux, 1U);
  EXPECT_EQ(reading.requests, 0U);
  EXPECT_EQ(reading.ttfb().count(), 0U);
  EXPECT_EQ(reading.histogram(WEIR_HIST_DURATION).count(), 0U);
  expect_settled();
}

/// Many requests on one connection, the first of them in two pieces.
TEST_P(Sniff, PlainRequestsAreCountedExactly) {
  constexpr int kRequests = 1000;
  const ScriptedServer server([](int fd) {
    for (int i = 0; i < kRequests; ++i) {
      receive(fd, kRequest.size());
      send_text(fd, kFinal);
    }
    drain(fd);
  });
  observe(server.address());
  EXPECT_TRUE(exchange([](int fd) {
    bool good = send_text(fd, kRequest.substr(0, 3)) && send_text(fd, kRequest.substr(3));
    good = good && receive(fd, kFinal.size()) == kFinal;
    for (int i = 1; good && i < kRequests; ++i) {
      good = send_text(fd, kRequest) && receive(fd, kFinal.size()) == kFinal;
    }
    return good;
  }));
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.requests, 1000U);
  EXPECT_EQ(reading.ttfb().count(), 1000U);
  EXPECT_EQ(reading.histogram(WEIR_HIST_DURATION).count(), 1000U);
  EXPECT_EQ(reading.mux, 0U);
  EXPECT_EQ(reading.interim, 0U);
  expect_settled();
}

/* ---- TLS, with a real client and a real server ---- */

constexpr char kPython[] = "/usr/bin/python3";
constexpr char kScript[] = "tests/fixtures/tls_exchange.py";
constexpr int kTlsRequests = 20;

class SniffTls : public WatchTest,
                 public testing::WithParamInterface<std::tuple<weir_request_clock, const char*>> {
 protected:
  void SetUp() override {
    WatchTest::SetUp();
    if (HasFailure() || IsSkipped()) return;
    require(has_request_clock(std::get<0>(GetParam())) ? ""
                                                       : "this kernel lacks the request clock");
    require(std::filesystem::exists(kPython) ? "" : "python3 is missing");
  }
};

TEST_P(SniffTls, HandshakeIsNoRequestAndEveryRequestIsCounted) {
  const auto [clock, version] = GetParam();
  const auto run = [version = version](const char* role, const std::string& argument) {
    return [=](int out) {
      if (out != 3) return;
      execl(kPython, kPython, kScript, role, version, argument.c_str(), nullptr);
    };
  };
  Application server(sandbox_.cgroup(), run("server", std::to_string(kThinking / 1ms)));
  std::uint16_t port = 0;
  ASSERT_TRUE(server.read(&port, sizeof(port)));
  attach({service(kWatchedService, {endpoint("127.0.0.1:" + std::to_string(port))})}, {1}, clock);

  Application client(sandbox_.cgroup(), run("client", std::to_string(kTlsRequests)));
  std::int64_t median_ns = 0;  // as the program itself saw it
  ASSERT_TRUE(client.read(&median_ns, sizeof(median_ns)));
  ASSERT_TRUE(eventually([&] { return backend(0).closes == 1; }));

  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.requests, 20U);
  EXPECT_EQ(reading.ttfb().count(), 19U) << "not the first: a session ticket may have come before";
  const auto median = *reading.ttfb().quantile(0.5);
  EXPECT_GE(median, kThinking);
  EXPECT_LT(std::chrono::abs(median - std::chrono::nanoseconds(median_ns)), 5ms);
  EXPECT_EQ(reading.in_flight, 0U);
  EXPECT_EQ(reading.waiting, 0U);
  EXPECT_EQ(reading.streaming, 0U);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
}

INSTANTIATE_TEST_SUITE_P(
    BothClocks, SniffTls,
    testing::Combine(testing::Values(WEIR_CLOCK_TRACEPOINT, WEIR_CLOCK_SKB),
                     testing::Values("TLSv1_2", "TLSv1_3")),
    [](const auto& param) {
      return std::string(std::get<0>(param.param) == WEIR_CLOCK_SKB ? "Skb" : "Tracepoint") +
             (std::string_view(std::get<1>(param.param)) == "TLSv1_2" ? "Tls12" : "Tls13");
    });

}  // namespace
}  // namespace weir::kernel
