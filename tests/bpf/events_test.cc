// SPDX-License-Identifier: Apache-2.0
//
// What `weir events` shows, on real sockets; and that nothing is written while nobody watches.
#include <bpf/bpf.h>
#include <netinet/in.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "agent/kernel/pin_dir.h"
#include "tests/bpf/watch_fixture.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

/// A backend that a test plays itself.
class Listener {
 public:
  explicit Listener(const Endpoint& at) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(at.port);
    std::copy(at.ip.begin() + 12, at.ip.end(),
              reinterpret_cast<std::uint8_t*>(&address.sin_addr.s_addr));
    fd_ = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    (void)setsockopt(fd_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    EXPECT_EQ(bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(fd_.get(), 128), 0);
    at_ = local_of(fd_.get()).value();
  }
  [[nodiscard]] const Endpoint& address() const { return at_; }
  [[nodiscard]] Fd accept() const { return Fd(accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }

 private:
  Fd fd_;
  Endpoint at_;
};

/// How far the programs have written: the position that the kernel keeps on the second page of a
/// ring buffer's memory (kernel/bpf/ringbuf.c).
class RingPosition {
 public:
  explicit RingPosition(const std::string& pin_root) {
    const Fd fd(bpf_obj_get((version_path(pin_root) + "/" + WEIR_MAP_EVENT).c_str()));
    page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    memory_ = mmap(nullptr, page_, PROT_READ, MAP_SHARED, fd.get(), static_cast<off_t>(page_));
    EXPECT_NE(memory_, MAP_FAILED);
  }
  ~RingPosition() { munmap(memory_, page_); }
  RingPosition(const RingPosition&) = delete;
  RingPosition& operator=(const RingPosition&) = delete;
  [[nodiscard]] std::uint64_t now() const {
    return __atomic_load_n(static_cast<const std::uint64_t*>(memory_), __ATOMIC_ACQUIRE);
  }

 private:
  std::size_t page_ = 0;
  void* memory_ = nullptr;
};

class Events : public WatchTest {
 protected:
  static Endpoint closed_port() { return TcpBackend("127.0.0.1").address(); }

  weir_knobs knobs() {
    const Fd fd(bpf_obj_get((version_path(sandbox_.pin_root()) + "/" + WEIR_MAP_KNOBS).c_str()));
    const std::uint32_t key = 0;
    weir_knobs value{};
    EXPECT_EQ(bpf_map_lookup_elem(fd.get(), &key, &value), 0);
    return value;
  }

  /// `requests` of `bytes` each on one connection, a byte in answer to each; the cookie.
  Connected exchange(int requests, std::size_t bytes) {
    return run_in<Connected>(sandbox_.cgroup(), [&] {
      Connected outcome;
      const int fd = connect_to(endpoint(kWatchedService), false, &outcome.error);
      outcome.cookie = cookie_of(fd);
      const std::string request(bytes, 'q');
      for (int i = 0; i < requests && outcome.error == 0; ++i) {
        char answer = 0;
        if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) !=
                static_cast<ssize_t>(request.size()) ||
            recv(fd, &answer, 1, 0) != 1) {
          outcome.error = errno;
        }
      }
      close(fd);
      return outcome;
    });
  }

  /// Waits for the record of the connection's end: TCP closes after the application does.
  template <typename T>
  std::vector<T> wait_for(std::size_t count) {
    std::vector<T> found;
    EXPECT_TRUE(eventually([&] {
      for (T& each : only<T>(events())) found.push_back(std::move(each));
      return found.size() >= count;
    }));
    EXPECT_EQ(found.size(), count);
    found.resize(count);
    return found;
  }
};

TEST_F(Events, ACloseHasItsTotals) {
  const TcpBackend backend("127.0.0.1", 2ms);
  attach({service(kWatchedService, {backend.address()})}, {1});
  watch({.connections = true});
  const Connected connected = exchange(3, 1000);
  ASSERT_EQ(connected.error, 0);
  const CloseEvent close = wait_for<CloseEvent>(1)[0];
  EXPECT_EQ(close.head.service, "service");
  EXPECT_EQ(close.head.backend, backend.address().to_string());
  EXPECT_EQ(close.head.cookie, connected.cookie);
  EXPECT_EQ(close.bytes_sent, 3000U);
  EXPECT_EQ(close.bytes_received, 3U);
  EXPECT_EQ(close.requests, 3U);
  EXPECT_EQ(close.retransmits, 0U);
  EXPECT_EQ(close.error, std::nullopt);
  EXPECT_EQ(close.flags & (WEIR_SK_DIRECT | WEIR_SK_PROBE), 0U);
  EXPECT_GE(close.open, 6ms) << "three answers of 2 ms each";
  EXPECT_LT(close.open, 5s);
  ASSERT_TRUE(close.min_rtt);
  EXPECT_LT(*close.min_rtt, 2ms) << "of the network, not of the backend";
  EXPECT_TRUE(only<CloseEvent>(events()).empty());
}

TEST_F(Events, AConnectionMadeToTheBackendItselfSaysSo) {
  const TcpBackend backend("127.0.0.1");
  attach({service(kWatchedService, {backend.address()})}, {1});
  watch({.connections = true});
  ASSERT_EQ(connect_once(backend.address().to_string().c_str()).error, 0);
  EXPECT_NE(wait_for<CloseEvent>(1)[0].flags & WEIR_SK_DIRECT, 0U);
}

TEST_F(Events, AResetConnectionEndsWithItsErrno) {
  const Listener backend(Endpoint::parse("127.0.0.1:0", true).value());
  attach({service(kWatchedService, {backend.address()})}, {1});
  watch({.connections = true});
  Application client(sandbox_.cgroup(), [](int out) {
    int error = 0;
    const int fd = connect_to(endpoint(kWatchedService), false, &error);
    char answer = 0;
    if (recv(fd, &answer, 1, 0) < 0) error = errno;
    (void)!write(out, &error, sizeof(error));
  });
  {
    const Fd connection = backend.accept();
    const linger at_once{1, 0};
    ASSERT_EQ(setsockopt(connection.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
  }
  int seen = 0;
  ASSERT_TRUE(client.read(&seen, sizeof(seen)));
  ASSERT_EQ(seen, ECONNRESET);
  EXPECT_EQ(wait_for<CloseEvent>(1)[0].error, ECONNRESET);
}

TEST_F(Events, FailuresAndTheBreakerInTheirOrder) {
  breaker_.open = 30ms;
  breaker_.max_open = 1s;
  const Endpoint port = closed_port();
  attach({service(kWatchedService, {port}, true)}, {1});
  watch({.connections = true});
  const auto try_until = [&](auto condition) {
    ASSERT_TRUE(eventually([&] {
      connect_once();
      return condition();
    }));
  };
  std::vector<Event> all;
  const auto collect = [&] {
    for (Event& event : events()) all.push_back(std::move(event));
    return only<BreakerEvent>(all);
  };

  std::array<Connected, 3> failed;
  for (Connected& each : failed) each = connect_once();
  ASSERT_EQ(collect().size(), 1U);
  const auto failures = only<FailureEvent>(all);
  ASSERT_EQ(failures.size(), 3U);
  for (std::size_t i = 0; i < failures.size(); ++i) {
    EXPECT_EQ(failures[i].error, ECONNREFUSED);
    EXPECT_EQ(failures[i].consecutive, i + 1);
    EXPECT_EQ(failures[i].head.cookie, failed.at(i).cookie);
    EXPECT_EQ(failures[i].head.backend, port.to_string());
    EXPECT_EQ(failures[i].head.service, "service");
  }

  try_until([&] { return collect().size() == 3; });  // a relapse
  const Listener back(port);
  try_until([&] { return collect().size() == 5; });  // recovered

  struct Step {
    weir_breaker_state from;
    weir_breaker_state to;
    std::uint32_t level;
  };
  const Step steps[] = {{WEIR_BREAKER_CLOSED, WEIR_BREAKER_OPEN, 0},
                        {WEIR_BREAKER_OPEN, WEIR_BREAKER_HALF_OPEN, 0},
                        {WEIR_BREAKER_HALF_OPEN, WEIR_BREAKER_OPEN, 1},
                        {WEIR_BREAKER_OPEN, WEIR_BREAKER_HALF_OPEN, 1},
                        {WEIR_BREAKER_HALF_OPEN, WEIR_BREAKER_CLOSED, 0}};
  const auto changes = only<BreakerEvent>(all);
  ASSERT_EQ(changes.size(), std::size(steps));
  for (std::size_t i = 0; i < changes.size(); ++i) {
    EXPECT_EQ(changes[i].from, steps[i].from) << i;
    EXPECT_EQ(changes[i].to, steps[i].to) << i;
    EXPECT_EQ(changes[i].level, steps[i].level) << i;
    EXPECT_EQ(changes[i].head.backend, port.to_string());
    EXPECT_EQ(changes[i].head.cookie, 0U);
    if (i > 0) {
      EXPECT_GE(changes[i].head.time, changes[i - 1].head.time);
    }
  }
  ASSERT_TRUE(changes[0].open && changes[2].open);
  EXPECT_GE(*changes[0].open, 30ms);
  EXPECT_LE(*changes[0].open, 36ms) << "at most a fifth is added";
  EXPECT_GE(*changes[2].open, 60ms);
  EXPECT_LE(*changes[2].open, 72ms);
  EXPECT_GE(changes[1].head.time - changes[0].head.time, 29ms) << "clocks of whole milliseconds";
}

class EventsOfClock : public Events, public testing::WithParamInterface<weir_request_clock> {};

TEST_P(EventsOfClock, EveryRequestIsReported) {
  const TcpBackend backend("127.0.0.1", 5ms);
  attach({service(kWatchedService, {backend.address()})}, {1}, GetParam());
  watch({.requests = true});
  const Connected connected = exchange(3, 100);
  ASSERT_EQ(connected.error, 0);
  const auto requests = wait_for<RequestEvent>(3);
  for (std::uint32_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(requests[i].sequence, i + 1);
    EXPECT_EQ(requests[i].head.cookie, connected.cookie);
    EXPECT_EQ(requests[i].head.backend, backend.address().to_string());
    EXPECT_GE(requests[i].ttfb, 5ms);
    EXPECT_LT(requests[i].ttfb, 2s);
  }
  EXPECT_EQ(this->backend(0).requests, 3U);
}

INSTANTIATE_TEST_SUITE_P(Clocks, EventsOfClock,
                         testing::Values(WEIR_CLOCK_TRACEPOINT, WEIR_CLOCK_SKB),
                         [](const auto& test) {
                           return test.param == WEIR_CLOCK_SKB ? "Skb" : "Tracepoint";
                         });

TEST_F(Events, OnlyWhatWasAskedForIsWritten) {
  const TcpBackend backend("127.0.0.1");
  attach({service(kWatchedService, {backend.address()})}, {1});
  watch({.requests = true});
  ASSERT_EQ(exchange(2, 10).error, 0);
  ASSERT_TRUE(eventually([&] { return snapshot().backends[0].closes == 1; }));
  EXPECT_EQ(events().size(), 2U) << "two requests, no close, no pick";
}

TEST_F(Events, NothingIsWrittenWhenNobodyWatches) {
  const TcpBackend backend("127.0.0.1");
  ServiceSpec dead = service("10.96.0.11:80", {closed_port()});
  dead.name = "dead";
  attach({service(kWatchedService, {backend.address()}), dead}, {1, 1});
  const RingPosition ring(sandbox_.pin_root());
  const auto traffic = [&] {
    EXPECT_EQ(exchange(2, 10).error, 0);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(connect_once("10.96.0.11:80").error, ECONNREFUSED);
  };
  const std::uint64_t before = ring.now();
  traffic();
  ASSERT_TRUE(eventually([&] { return snapshot().backends[0].closes == 1; }));
  EXPECT_EQ(ring.now(), before);

  watch({.connections = true, .requests = true, .picks = Watch::Picks{}});
  traffic();
  ASSERT_TRUE(eventually([&] { return snapshot().backends[0].closes == 2; }));
  const std::uint64_t watched = ring.now();
  EXPECT_GT(watched, before);

  reader_ = nullptr;  // a watcher that ends gives its lease back
  const weir_knobs after = knobs();
  EXPECT_EQ(after.watch_until_ns, 0U);
  EXPECT_EQ(after.explain_until_ns, 0U);
  EXPECT_EQ(after.trace_until_ns, 0U);
  traffic();
  ASSERT_TRUE(eventually([&] { return snapshot().backends[0].closes == 3; }));
  EXPECT_EQ(ring.now(), watched);
}

TEST_F(Events, TheLeaseOfAKilledWatcherRunsOut) {
  const TcpBackend backend("127.0.0.1");
  attach({service(kWatchedService, {backend.address()})}, {1});
  const RingPosition ring(sandbox_.pin_root());
  {
    Application watcher(sandbox_.cgroup(), [&](int out) {
      auto reader = EventReader::open(
          sandbox_.pin_root(), {.connections = true, .picks = Watch::Picks{}, .lease = 300ms});
      const bool ok = reader.ok();
      (void)!write(out, &ok, sizeof(ok));
      pause();
    });
    bool ok = false;
    ASSERT_TRUE(watcher.read(&ok, sizeof(ok)));
    ASSERT_TRUE(ok);
    watcher.kill();
  }
  const std::uint64_t until_ns = knobs().watch_until_ns;
  ASSERT_GT(until_ns, 0U) << "nobody gave it back";
  EXPECT_EQ(knobs().explain_until_ns, until_ns);
  const auto now_ns = [] {
    return static_cast<std::uint64_t>(
        std::chrono::nanoseconds(SteadyClock().now().time_since_epoch()).count());
  };
  EXPECT_LE(until_ns, now_ns() + 300'000'000);
  ASSERT_TRUE(eventually([&] { return now_ns() > until_ns; }));
  const std::uint64_t before = ring.now();
  EXPECT_EQ(connect_once().error, 0);
  ASSERT_TRUE(eventually([&] { return snapshot().backends[0].closes >= 1; }));
  EXPECT_EQ(ring.now(), before);
  watch({.connections = true});  // its lock went with it
}

TEST_F(Events, ARenewedLeaseGoesOn) {
  const TcpBackend backend("127.0.0.1");
  attach({service(kWatchedService, {backend.address()})}, {1});
  watch({.picks = Watch::Picks{}, .lease = 200ms});
  const std::uint64_t first = knobs().explain_until_ns;
  ASSERT_TRUE(eventually(
      [&] { return SteadyClock().now().time_since_epoch() > std::chrono::nanoseconds(first); }));
  EXPECT_EQ(connect_once().error, 0);
  EXPECT_TRUE(events().empty()) << "it had run out";
  EXPECT_EQ(reader_->losses()->unwatched.count(), 0);
  ASSERT_TRUE(reader_->renew().ok());
  EXPECT_GT(knobs().explain_until_ns, first);
  EXPECT_GT(reader_->losses()->unwatched.count(), 0) << "and that is admitted";
  EXPECT_EQ(connect_once().error, 0);
  EXPECT_EQ(only<PickEvent>(events()).size(), 1U);
}

TEST_F(Events, WhatAnEarlierWatcherLeftIsNotShown) {
  const TcpBackend backend("127.0.0.1");
  attach({service(kWatchedService, {backend.address()})}, {1});
  watch({.picks = Watch::Picks{}});
  EXPECT_EQ(connect_once().error, 0);
  watch({.picks = Watch::Picks{}});  // without having read
  EXPECT_TRUE(events().empty());
  EXPECT_EQ(connect_once().error, 0);
  EXPECT_EQ(events().size(), 1U);
}

TEST_F(Events, OneWatcherAtATime) {
  attach({service(kWatchedService, {})}, {});
  watch({.connections = true});
  const auto second = EventReader::open(sandbox_.pin_root(), {.requests = true});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Code::kAlreadyExists);
  EXPECT_GT(knobs().watch_until_ns, 0U) << "the first one goes on";
  EXPECT_EQ(knobs().trace_until_ns, 0U);
}

TEST_F(Events, AFullBufferCountsWhatIsLost) {
  attach({service(kWatchedService, {closed_port()})}, {1});
  watch({.connections = true, .picks = Watch::Picks{}, .lease = 60s});
  constexpr int kConnects = 8000;  // 152 bytes of records each, in 1 MiB
  run_in<int>(sandbox_.cgroup(), [] {
    int error = 0;
    for (int i = 0; i < kConnects; ++i) close(connect_to(endpoint(kWatchedService), false, &error));
    return error;
  });
  const std::uint64_t lost = reader_->losses()->records;
  EXPECT_GT(lost, 0U);
  const auto all = events();
  const auto changes = only<BreakerEvent>(all).size();
  EXPECT_EQ(changes, 1U) << "it opened while there was room";
  EXPECT_EQ(all.size() - changes + lost, 2U * kConnects) << "a pick and a failure each";
  EXPECT_EQ(reader_->losses()->records, lost);
  EXPECT_EQ(connect_once().error, ECONNREFUSED);
  EXPECT_EQ(events().size(), 2U) << "there is room again";
  EXPECT_EQ(stat(WEIR_STAT_EVENT_LOST), lost);
}

TEST_F(Events, AWatcherNoticesThatTheMapsAreGone) {
  attach({service(kWatchedService, {})}, {});
  watch({.connections = true});
  EXPECT_TRUE(reader_->renew().ok());
  ASSERT_TRUE(plane_->detach().ok());
  const Status gone = reader_->renew();
  ASSERT_FALSE(gone.ok());
  EXPECT_EQ(gone.error().code, Code::kUnavailable);
  EXPECT_NE(gone.error().message.find("were removed"), std::string::npos) << gone.error().message;
}

TEST_F(Events, WatchingNeedsNoAgent) {
  const TcpBackend backend("127.0.0.1");
  attach({service(kWatchedService, {backend.address()})}, {1});
  plane_ = nullptr;
  watch({.picks = Watch::Picks{}});
  EXPECT_EQ(connect_once().error, 0);
  EXPECT_EQ(only<PickEvent>(events()).size(), 1U);
}

TEST_F(Events, NothingToWatchIsSaid) {
  const auto reader = EventReader::open(sandbox_.pin_root(), {.connections = true});
  ASSERT_FALSE(reader.ok());
  EXPECT_EQ(reader.error().code, Code::kNotFound);
}

}  // namespace
}  // namespace weir::kernel
