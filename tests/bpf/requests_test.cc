// SPDX-License-Identifier: Apache-2.0
//
// Requests however they are sent, one record for each while somebody traces, and how long they lie
// unread at the server. On real sockets, with each way to see them.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>

#include "tests/bpf/observe_fixture.h"
#include "weir.skel.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kRequest = "GET /v1/models HTTP/1.1\r\nHost: service\r\n\r\n";
constexpr std::string_view kResponse = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

class Requests : public ObserveTest {};
WEIR_WITH_EVERY_SIGHT(Requests);

/// Answers each request as it comes.
ScriptedServer prompt_server() {
  return ScriptedServer([](int fd) {
    while (receive(fd, kRequest.size()).size() == kRequest.size()) send_text(fd, kResponse);
  });
}

bool answered(int fd) { return receive(fd, kResponse.size()) == kResponse; }

bool send_by_writev(int fd) {
  std::array<iovec, 2> parts{};
  std::string text(kRequest);
  parts[0] = {text.data(), 10};
  parts[1] = {text.data() + 10, text.size() - 10};
  return writev(fd, parts.data(), parts.size()) == static_cast<ssize_t>(kRequest.size());
}

bool send_by_sendfile(int fd) {
  const Fd file(memfd_create("request", MFD_CLOEXEC));
  return write(file.get(), kRequest.data(), kRequest.size()) ==
             static_cast<ssize_t>(kRequest.size()) &&
         lseek(file.get(), 0, SEEK_SET) == 0 &&
         sendfile(fd, file.get(), nullptr, kRequest.size()) ==
             static_cast<ssize_t>(kRequest.size());
}

bool send_by_splice(int fd) {
  int ends[2];
  if (pipe(ends) != 0) return false;
  const Fd in(ends[0]);
  const Fd out(ends[1]);
  return write(out.get(), kRequest.data(), kRequest.size()) ==
             static_cast<ssize_t>(kRequest.size()) &&
         splice(in.get(), nullptr, fd, nullptr, kRequest.size(), 0) ==
             static_cast<ssize_t>(kRequest.size());
}

bool send_by_sendmsg_corked(int fd) {
  return send(fd, kRequest.data(), 5, MSG_MORE) == 5 && send_text(fd, kRequest.substr(5));
}

TEST_P(Requests, EverySystemCallThatSendsBeginsOne) {
  const ScriptedServer server = prompt_server();
  observe(server.address());
  EXPECT_TRUE(exchange([](int fd) {
    for (const auto& send_by :
         {send_by_writev, send_by_sendfile, send_by_splice, send_by_sendmsg_corked}) {
      if (!send_by(fd) || !answered(fd)) return false;
    }
    return true;
  }));
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.requests, 4U);
  EXPECT_EQ(reading.ttfb().count(), 4U);
  EXPECT_EQ(reading.histogram(WEIR_HIST_DURATION).count(), 4U);
  EXPECT_EQ(reading.bytes_sent, 4 * kRequest.size());
  EXPECT_EQ(reading.bytes_received, 4 * kResponse.size());
  expect_settled();
}

TEST_P(Requests, PeekedBytesAreNotRead) {
  const ScriptedServer server = prompt_server();
  observe(server.address());
  EXPECT_TRUE(exchange([](int fd) {
    std::array<char, 64> buffer{};
    return send_text(fd, kRequest) && recv(fd, buffer.data(), buffer.size(), MSG_PEEK) > 0 &&
           answered(fd) && send_text(fd, kRequest) && answered(fd);
  }));
  EXPECT_EQ(backend(0).requests, 2U);
  expect_settled();
}

/// As ARCHITECTURE.md has it: requests sent before the answer to an earlier one are seen as one.
TEST_P(Requests, PipelinedOnesAreSeenAsOne) {
  const ScriptedServer server([](int fd) {
    receive(fd, 3 * kRequest.size());
    for (int i = 0; i < 3; ++i) send_text(fd, kResponse);
    drain(fd);
  });
  observe(server.address());
  EXPECT_TRUE(exchange([](int fd) {
    for (int i = 0; i < 3; ++i) {
      if (!send_text(fd, kRequest)) return false;
    }
    return receive(fd, 3 * kResponse.size()).size() == 3 * kResponse.size();
  }));
  EXPECT_EQ(backend(0).requests, 1U);
  expect_settled();
}

TEST_P(Requests, EachIsReportedWhileSomebodyTraces) {
  constexpr auto kThinking = 20ms;
  const ScriptedServer server([&](int fd) {
    while (receive(fd, kRequest.size()).size() == kRequest.size()) {
      std::this_thread::sleep_for(kThinking);
      send_text(fd, kResponse);
    }
  });
  observe(server.address());
  const auto three_requests = [](int fd) {
    for (int i = 0; i < 3; ++i) {
      if (!send_text(fd, kRequest) || !answered(fd)) return false;
    }
    return true;
  };
  EXPECT_TRUE(exchange(three_requests));  // before anybody traces
  watch({.requests = true, .lease = 30s});
  EXPECT_TRUE(exchange(three_requests));

  const std::vector<Event> seen = events();
  const auto requests = only<RequestEvent>(seen);
  EXPECT_EQ(seen.size(), 3U) << "nothing else was asked for";
  ASSERT_EQ(requests.size(), 3U);
  for (std::uint32_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(requests[i].sequence, i + 1);
    EXPECT_EQ(requests[i].head.service, "service");
    EXPECT_EQ(requests[i].head.backend, server.address().to_string());
    EXPECT_EQ(requests[i].head.cookie, requests[0].head.cookie);
    EXPECT_NE(requests[i].head.cookie, 0U);
    EXPECT_GE(requests[i].ttfb, kThinking);
    EXPECT_EQ(requests[i].flags & (WEIR_SK_TLS | WEIR_SK_MUX | WEIR_SK_SERVER), 0U);
  }
}

TEST_P(Requests, ForeignSocketsAreLeftAlone) {
  const ScriptedServer server = prompt_server();
  const ScriptedServer foreign = prompt_server();
  observe(server.address());
  EXPECT_TRUE(run_in<bool>(sandbox_.cgroup(), [&] {
    int error = 0;
    const Fd tcp(connect_to(foreign.address(), false, &error));
    if (error != 0 || !send_text(tcp.get(), kRequest) || !answered(tcp.get())) return false;
    // UDP with the service's own address and port, and back.
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(any);
    const Fd receiver(socket(AF_INET, SOCK_DGRAM, 0));
    const Fd sender(socket(AF_INET, SOCK_DGRAM, 0));
    char byte = 0;
    return bind(receiver.get(), reinterpret_cast<const sockaddr*>(&any), sizeof(any)) == 0 &&
           getsockname(receiver.get(), reinterpret_cast<sockaddr*>(&any), &bytes) == 0 &&
           sendto(sender.get(), "u", 1, 0, reinterpret_cast<const sockaddr*>(&any), sizeof(any)) ==
               1 &&
           recv(receiver.get(), &byte, 1, 0) == 1 && byte == 'u';
  }));
  const BackendReading reading = backend(0);
  EXPECT_EQ(reading.established, 0U);
  EXPECT_EQ(reading.requests, 0U);
  EXPECT_EQ(reading.closes, 0U);
  EXPECT_EQ(reading.histogram(WEIR_HIST_UNREAD).count(), 0U);
  expect_settled();
}

/// A server in the cgroup that lets each request lie for a while.
TEST_P(Requests, TimeUnreadAtTheServerIsMeasured) {
  static constexpr auto kLying = 30ms;
  constexpr int kRequests = 5;
  Application server(sandbox_.cgroup(), [](int out) {
    Endpoint address;
    const Fd listener = listen_on_loopback(&address);
    (void)!write(out, &address.port, sizeof(address.port));
    const Fd connection(accept(listener.get(), nullptr, nullptr));
    for (;;) {
      // Not blocked in a read, but busy elsewhere when the request comes.
      pollfd readable{connection.get(), POLLIN, 0};
      if (poll(&readable, 1, -1) != 1) break;
      std::this_thread::sleep_for(kLying);
      if (receive(connection.get(), kRequest.size()).size() != kRequest.size()) break;
      send_text(connection.get(), kResponse);
    }
    pause();
  });
  std::uint16_t port = 0;
  ASSERT_TRUE(server.read(&port, sizeof(port)));
  observe(endpoint("127.0.0.1:" + std::to_string(port)));
  EXPECT_TRUE(exchange([](int fd) {
    for (int i = 0; i < kRequests; ++i) {
      if (!send_text(fd, kRequest) || !answered(fd)) return false;
    }
    return true;
  }));
  const BackendReading reading = backend(0);
  const Histogram& unread = reading.histogram(WEIR_HIST_UNREAD);
  if (clock_of(GetParam()) == WEIR_CLOCK_TRACEPOINT) {
    ASSERT_EQ(unread.count(), 5U);
    EXPECT_GE(*unread.quantile(0), kLying);
    EXPECT_LT(*unread.mean(), 2 * kLying);
    EXPECT_GE(*reading.ttfb().quantile(0), *unread.quantile(0));
  } else {
    EXPECT_EQ(unread.count(), 0U);
  }
  // The server's end of the connection holds nothing of the backend.
  EXPECT_EQ(reading.established, 1U);
  EXPECT_EQ(reading.requests, 5U);
  EXPECT_EQ(reading.closes, 1U);
  server.kill();
  expect_settled();
}

/* ---- packets made up ---- */

struct DestroySkeleton {
  void operator()(weir_bpf* skeleton) const { weir_bpf__destroy(skeleton); }
};

class PacketPrograms : public DataPlaneTest, public testing::WithParamInterface<const char*> {};

/// Of sockets that are not observed, whatever they look like.
TEST_P(PacketPrograms, LetForeignPacketsPass) {
  const std::unique_ptr<weir_bpf, DestroySkeleton> skeleton(weir_bpf__open());
  ASSERT_NE(skeleton, nullptr);
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, skeleton->obj) bpf_program__set_autoload(program, false);
  program = bpf_object__find_program_by_name(skeleton->obj, GetParam());
  ASSERT_NE(program, nullptr);
  bpf_program__set_autoload(program, true);
  ASSERT_EQ(weir_bpf__load(skeleton.get()), 0);

  std::vector<std::string> packets;
  for (const int version : {0x00, 0x45, 0x4f, 0x60, 0x75}) {
    for (const std::size_t bytes : {14U, 33U, 34U, 54U, 74U, 1500U}) {
      std::string packet(bytes, '\xff');
      packet[12] = version >> 4 == 6 ? '\x86' : '\x08';
      packet[13] = version >> 4 == 6 ? '\xdd' : '\0';
      if (bytes > 14) packet[14] = static_cast<char>(version);
      if (bytes > 23) packet[23] = 6;
      if (bytes > 20 && version >> 4 == 6) packet[20] = 6;
      packets.push_back(packet);
    }
  }
  for (const std::string& packet : packets) {
    bpf_test_run_opts options{};
    options.sz = sizeof(options);
    options.data_in = packet.data();
    options.data_size_in = static_cast<std::uint32_t>(packet.size());
    options.repeat = 1;
    const int error = bpf_prog_test_run_opts(bpf_program__fd(program), &options);
    // A packet without room for its network header: the kernel does not even try.
    if (error == -EINVAL && packet.size() < 54) continue;
    ASSERT_EQ(error, 0) << packet.size() << " bytes";
    EXPECT_EQ(options.retval, 1U) << packet.size() << " bytes";
  }
}

INSTANTIATE_TEST_SUITE_P(All, PacketPrograms,
                         testing::Values("weir_skb_out", "weir_skb_in", "weir_tp_out",
                                         "weir_tp_in"),
                         [](const auto& name) { return std::string(name.param).substr(5); });

}  // namespace
}  // namespace weir::kernel
