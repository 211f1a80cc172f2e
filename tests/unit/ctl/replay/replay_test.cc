// SPDX-License-Identifier: Apache-2.0
//
// Whole replays against a server in this process.
#include "agent/ctl/replay/replay.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <functional>
#include <mutex>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "agent/base/json_text.h"
#include "agent/ctl/replay/progress.h"
#include "tests/fixtures/scripted_server.h"

namespace weir::replay {
namespace {

using namespace std::chrono_literals;

constexpr const char* kResult = R"({"usage":{"prompt_tokens":2,"completion_tokens":3}})";

std::string response(int status, const std::string& body) {
  return "HTTP/1.1 " + std::to_string(status) +
         " X\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

/// Serves any number of connections, each on a thread of its own. What it answers is up to
/// `answer`, which gets the whole request; an empty text closes the connection.
class TestServer {
 public:
  using AnswerRequest = std::function<std::string(const std::string& request)>;

  explicit TestServer(AnswerRequest answer)
      : answer_(std::move(answer)), listener_(listen_on_loopback(&address_)) {
    acceptor_ = std::jthread([this](const std::stop_token& stop) { accept_all(stop); });
  }
  ~TestServer() {
    acceptor_.request_stop();
    acceptor_.join();
    const std::scoped_lock lock(mutex_);
    for (const int fd : fds_) ::shutdown(fd, SHUT_RDWR);
  }
  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;

  [[nodiscard]] std::string address() const { return address_.to_string(); }
  [[nodiscard]] std::vector<std::string> requests() {
    const std::scoped_lock lock(mutex_);
    return requests_;
  }

 private:
  void accept_all(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      pollfd ready{.fd = listener_.get(), .events = POLLIN, .revents = 0};
      if (::poll(&ready, 1, 20) <= 0) continue;
      const int fd = ::accept(listener_.get(), nullptr, nullptr);
      if (fd < 0) continue;
      const std::scoped_lock lock(mutex_);
      fds_.push_back(fd);
      threads_.emplace_back([this, fd] { serve(fd); });
    }
  }

  void serve(int fd) {
    std::string kept;
    for (;;) {
      std::size_t head = 0;
      std::size_t body = 0;
      while ((head = kept.find("\r\n\r\n")) == std::string::npos ||
             kept.size() < head + 4 + (body = body_bytes(kept))) {
        const std::string more = receive_some(fd);
        if (more.empty()) return ::shutdown(fd, SHUT_RDWR), void();
        kept += more;
      }
      const std::string request = kept.substr(0, head + 4 + body);
      kept.erase(0, request.size());
      {
        const std::scoped_lock lock(mutex_);
        requests_.push_back(request);
      }
      const std::string bytes = answer_(request);
      if (bytes.empty() || !send_text(fd, bytes)) return ::shutdown(fd, SHUT_RDWR), void();
    }
  }

  static std::size_t body_bytes(const std::string& head) {
    return std::stoul(head.substr(head.find("Content-Length: ") + 16));
  }

  const AnswerRequest answer_;
  Endpoint address_;
  kernel::Fd listener_;
  std::mutex mutex_;
  std::vector<int> fds_;               // guarded by mutex_
  std::vector<std::string> requests_;  // guarded by mutex_
  std::vector<std::jthread> threads_;  // guarded by mutex_ while the acceptor runs
  std::jthread acceptor_;
};

class NoProgress final : public ProgressSink {
 public:
  [[nodiscard]] Duration period() const override { return 10ms; }
  void show(const ProgressReading& reading) override { last = reading; }
  ProgressReading last;
};

Options towards(const std::string& address, double rate, double duration_s) {
  Options options;
  options.poisson_per_s = rate;
  options.duration_s = duration_s;
  options.timeout = 5s;
  options.target = *parse_target(address);
  return options;
}

Report run(Options options) {
  NoProgress progress;
  EXPECT_TRUE(options.complete());
  auto report = run_replay(options, progress);
  EXPECT_TRUE(report) << report.error().message;
  EXPECT_EQ(progress.last.inflight, 0U);
  return *std::move(report);
}

/// Nothing is lost, nothing counted twice; parts sum up to the whole.
void expect_sums(const Report& report) {
  const Figures& all = report.recorder->all();
  EXPECT_EQ(all.planned, all.dropped + all.ok + all.refused + all.errors);
  EXPECT_EQ(all.sent + all.unsent, all.ok + all.refused + all.errors);
  std::uint64_t of_classes = 0;
  for (const Figures& figures : report.recorder->classes()) of_classes += figures.planned;
  EXPECT_EQ(of_classes, all.planned);
  std::uint64_t of_tenants = 0;
  for (const Figures& figures : report.recorder->tenants()) of_tenants += figures.ok;
  EXPECT_EQ(of_tenants, all.ok);
  EXPECT_EQ(all.e2e_ns.count(), all.ok);
}

TEST(Replay, CountsWhatTheServerAnswered) {
  std::atomic<int> served = 0;
  TestServer server([&](const std::string& request) {
    const int number = served++;
    if (number % 4 == 1) return response(429, R"({"error":{"code":"queue_full"}})");
    if (number % 4 == 2) return response(400, R"({"error":{"code":"invalid_value"}})");
    EXPECT_NE(request.find("\"max_tokens\":16"), std::string::npos);
    return response(200, kResult);
  });
  Options options = towards(server.address(), 400, 0.5);
  options.classes = {{"high", 1, 0, {}}, {"low", 3, 6, {}}};
  options.tenants = {{"a", 1}, {"b", 1}};
  const Report report = run(options);
  expect_sums(report);
  const Figures& all = report.recorder->all();
  const auto total = static_cast<std::uint64_t>(served.load());
  EXPECT_GT(total, 100U);
  EXPECT_EQ(all.planned, total);
  EXPECT_EQ(all.sent, total);
  EXPECT_EQ(all.refused, (total + 2) / 4);
  EXPECT_EQ(all.errors, (total + 1) / 4);
  EXPECT_EQ(all.refusals.at("429 queue_full").count, all.refused);
  EXPECT_EQ(all.errors_by_kind.at("400 invalid_value"), all.errors);
  EXPECT_EQ(all.completion_tokens, 3 * all.ok);
  EXPECT_EQ(all.prompt_tokens, 2 * all.ok);
  std::uint64_t high = 0;
  for (const std::string& request : server.requests()) {
    high += request.find("\"priority\":0") != std::string::npos ? 1U : 0U;
  }
  EXPECT_EQ(report.recorder->classes()[0].planned, high);
}

TEST(Replay, DoesNotWaitForASlowServer) {
  std::atomic<bool> slow = true;
  TestServer server([&](const std::string&) {
    if (slow.exchange(false)) std::this_thread::sleep_for(300ms);
    return response(200, kResult);
  });
  const Report report = run(towards(server.address(), 200, 0.5));
  expect_sums(report);
  const Figures& all = report.recorder->all();
  EXPECT_GT(all.ok, 50U);
  EXPECT_GT(report.facts.client.connections_opened, 1U) << "the others went past the slow one";
  EXPECT_GE(*all.e2e_ns.max(), 300'000'000U);
  EXPECT_LT(*all.e2e_ns.quantile(0.5), 300'000'000U);
}

TEST(Replay, LatencyCountsTheWaitForAConnection) {
  TestServer server([](const std::string&) {
    std::this_thread::sleep_for(20ms);
    return response(200, kResult);
  });
  Options options = towards(server.address(), 200, 0.5);  // four times what one connection takes
  options.connections = 1;
  const Report report = run(options);
  expect_sums(report);
  EXPECT_EQ(report.facts.client.connections_opened, 1U);
  EXPECT_GT(report.facts.client.waited, 20U);
  const Figures& all = report.recorder->all();
  EXPECT_EQ(all.ok, all.planned);
  EXPECT_GT(*all.e2e_ns.max(), 200'000'000U);
  // Without the wait they are all alike.
  EXPECT_LT(*all.e2e_from_send_ns.quantile(0.5), *all.e2e_ns.quantile(0.5) / 2);
}

TEST(Replay, DropsWhatIsMoreThanMaxInflightAndSaysSo) {
  TestServer server([](const std::string&) {
    std::this_thread::sleep_for(200ms);
    return response(200, kResult);
  });
  Options options = towards(server.address(), 500, 0.4);
  options.max_inflight = 3;
  const Report report = run(options);
  expect_sums(report);
  const Figures& all = report.recorder->all();
  EXPECT_GT(all.dropped, 100U);
  EXPECT_LE(all.ok, 9U);
  EXPECT_EQ(report.facts.client.inflight_peak, 3U);
  EXPECT_EQ(all.ok + all.dropped, all.planned);
}

TEST(Replay, NamesEachWayInWhichARequestFails) {
  std::atomic<int> served = 0;
  TestServer server([&](const std::string&) -> std::string {
    switch (served++ % 4) {
      case 0:
        return "";
      case 1:
        return "nonsense\r\n\r\n";
      case 2:
        std::this_thread::sleep_for(300ms);
        return response(200, kResult);
      default:
        return response(200, kResult);
    }
  });
  Options options = towards(server.address(), 200, 0.3);
  options.timeout = 150ms;
  const Report report = run(options);
  expect_sums(report);
  const auto& kinds = report.recorder->all().errors_by_kind;
  EXPECT_GT(kinds.at("closed_early"), 0U);
  EXPECT_GT(kinds.at("malformed"), 0U);
  EXPECT_GT(kinds.at("timeout"), 0U);
  EXPECT_EQ(kinds.size(), 3U);
}

TEST(Replay, InterimResponsesAreNotAnswers) {
  TestServer server(
      [](const std::string&) { return "HTTP/1.1 100 Continue\r\n\r\n" + response(200, kResult); });
  const Report report = run(towards(server.address(), 100, 0.2));
  expect_sums(report);
  EXPECT_EQ(report.recorder->all().ok, report.recorder->all().planned);
}

TEST(Replay, KeepsNoMoreReasonsThanSixtyFour) {
  std::atomic<int> served = 0;
  TestServer server([&](const std::string&) {
    return response(429, R"({"error":{"code":"request-)" + std::to_string(served++) + R"("}})");
  });
  Options options = towards(server.address(), 1000, 1);
  options.limit = 100;
  const Report report = run(options);
  expect_sums(report);
  const auto& refusals = report.recorder->all().refusals;
  EXPECT_EQ(refusals.size(), 65U);
  EXPECT_EQ(refusals.at("other").count, 36U);
  EXPECT_EQ(report.recorder->all().refused, 100U);
}

TEST(Replay, MeasuresStreams) {
  // Chunks come 30 ms apart, so that the gaps can be told.
  const auto chunk = [](const std::string& data) {
    char size[20];
    std::snprintf(size, sizeof(size), "%zx\r\n", data.size());
    return size + data + "\r\n";
  };
  ScriptedServer server([&](int fd) {
    if (receive_some(fd).empty()) return;  // the probe
    send_text(fd,
              "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
              "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 4; ++i) {
      send_text(fd, chunk("data: {\"choices\":[{\"text\":\"x\"}]}\n\n"));
      std::this_thread::sleep_for(30ms);
    }
    send_text(fd, chunk("data: [DONE]\n\n") + "0\r\n\r\n");
  });
  Options options = towards(server.address().to_string(), 1000, 1);
  options.limit = 1;
  options.api = Api::kCompletions;
  options.stream = true;
  options.objective = *parse_objective("itl=20ms");
  const Report report = run(options);
  const Figures& all = report.recorder->all();
  ASSERT_EQ(all.ok, 1U);
  EXPECT_EQ(all.completion_tokens, 4U);
  EXPECT_EQ(all.itl_ns.count(), 3U);
  EXPECT_GE(*all.itl_ns.min(), 25'000'000U);
  EXPECT_LT(*all.ttft_ns.max() + 90'000'000, *all.e2e_ns.max());
  EXPECT_EQ(all.good, 0U) << "30 ms between tokens do not meet 20 ms";
}

TEST(Replay, ClosedLoopKeepsItsNumberOutstanding) {
  std::atomic<int> now = 0;
  std::atomic<int> most = 0;
  TestServer server([&](const std::string&) {
    const int there = ++now;
    for (int seen = most; seen < there && !most.compare_exchange_weak(seen, there);) {
    }
    std::this_thread::sleep_for(5ms);
    --now;
    return response(200, kResult);
  });
  Options options;
  options.concurrency = 4;
  options.limit = 60;
  options.target = *parse_target(server.address());
  const Report report = run(options);
  expect_sums(report);
  EXPECT_EQ(report.recorder->all().ok, 60U);
  EXPECT_EQ(most, 4);
  EXPECT_EQ(report.facts.client.connections_opened, 4U);
}

TEST(Replay, WarmupIsSentAndNotCounted) {
  TestServer server([](const std::string&) { return response(200, kResult); });
  Options options = towards(server.address(), 300, 0.6);
  options.warmup_s = 0.3;
  const Report report = run(options);
  expect_sums(report);
  EXPECT_LT(report.recorder->all().planned, server.requests().size() * 3 / 4);
  EXPECT_NEAR(std::chrono::duration<double>(report.facts.window).count(), 0.3, 0.1);
}

TEST(Replay, SaysAtOnceWhenNobodyListens) {
  Endpoint address;
  { const kernel::Fd gone = listen_on_loopback(&address); }
  Options options = towards(address.to_string(), 10, 1);
  ASSERT_TRUE(options.complete());
  NoProgress progress;
  const auto report = run_replay(options, progress);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, Code::kUnavailable);
  EXPECT_EQ(report.error().message,
            "cannot connect to " + address.to_string() + ": Connection refused");
}

TEST(Replay, DoesNotWaitLongForATargetThatDoesNotAnswer) {
  // A listener whose backlog is full: what connects gets no answer.
  const kernel::Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(::bind(listener.get(), generic, size), 0);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  ASSERT_EQ(::getsockname(listener.get(), generic, &size), 0);
  const kernel::Fd first(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(first.get(), generic, size), 0);

  Options options = towards("127.0.0.1:" + std::to_string(ntohs(address.sin_port)), 10, 1);
  options.timeout = 100ms;
  ASSERT_TRUE(options.complete());
  NoProgress progress;
  const auto begin = std::chrono::steady_clock::now();
  const auto report = run_replay(options, progress);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().message,
            "cannot connect to " + options.target.authority + ": Connection timed out");
}

TEST(Replay, ReportsAreWhole) {
  TestServer server([n = std::make_shared<std::atomic<int>>(0)](const std::string&) {
    return (*n)++ % 3 == 0 ? response(429, R"({"error":{"code":"rate_limited","message":"slow"}})")
                           : response(200, kResult);
  });
  Options options = towards(server.address(), 200, 0.5);
  options.tenants = {{"a", 1}, {"<b>", 1}};
  options.tenants[1].name = "b.2";
  options.objective = *parse_objective("e2e=1s");
  const Report report = run(options);
  const boost::json::value json = boost::json::parse(to_json_text(to_json(report)));
  const Figures& all = report.recorder->all();
  EXPECT_EQ(json.at("weir_replay").as_int64(), 1);
  EXPECT_EQ(json.at("all").at("ok").to_number<std::uint64_t>(), all.ok);
  EXPECT_EQ(json.at("all").at("refusals").at("429 rate_limited").at("count").to_number<int>(),
            static_cast<int>(all.refused));
  EXPECT_EQ(json.at("tenants").as_object().size(), 2U);
  EXPECT_GT(json.at("fairness").at("jain_tokens").to_number<double>(), 0.5);
  EXPECT_EQ(json.at("all").at("goodput").at("met").to_number<std::uint64_t>(), all.ok);
  std::uint64_t offered = 0;
  for (const auto& slice : json.at("timeline").at("offered").as_array()) {
    offered += slice.to_number<std::uint64_t>();
  }
  EXPECT_EQ(offered, all.planned);
  const std::string html = to_html(report);
  EXPECT_EQ(html.find("http://"), std::string::npos) << "nothing from outside";
  EXPECT_FALSE(std::regex_search(html, std::regex("\\b[LMHV]?-?(nan|inf)\\b")));
  EXPECT_EQ(html.find("<script"), std::string::npos);
  std::size_t plots = 0;
  for (std::size_t at = 0; (at = html.find("<svg", at)) != std::string::npos; ++at) ++plots;
  EXPECT_EQ(plots, 6U);
  EXPECT_NE(to_text(report).find("refused 429 rate_limited: " + std::to_string(all.refused) +
                                 ", the first: slow\n"),
            std::string::npos);
  EXPECT_EQ(json.at("messages").at("429 rate_limited").as_string(), "slow");
}

TEST(Replay, JainIndexIsOneForEqualsAndItsReciprocalForOneOfMany) {
  EXPECT_DOUBLE_EQ(jain_index({3, 3, 3}), 1);
  EXPECT_DOUBLE_EQ(jain_index({5, 0, 0, 0}), 0.25);
  EXPECT_DOUBLE_EQ(jain_index({0, 0}), 1);
}

TEST(ReplayProgress, ShowsABarByTime) {
  ProgressReading reading;
  reading.elapsed = 5s;
  reading.span = 20s;
  reading.ended = 7;
  reading.inflight = 2;
  EXPECT_EQ(progress_text(reading, 8), "[##......]  25 %  5.0 s  7 ended  in flight 2");
  reading.planned = 40;
  EXPECT_EQ(progress_text(reading, 0), " 25 %  5.0 s  7 of 40  in flight 2");
}

}  // namespace
}  // namespace weir::replay
