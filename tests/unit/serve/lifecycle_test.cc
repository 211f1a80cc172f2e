// SPDX-License-Identifier: Apache-2.0
//
// Connections: reuse, limits, timeouts, drain, shutdown.
#include <sys/resource.h>

#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class Lifecycle : public ServeTest {};

TEST_F(Lifecycle, ConnectionServesManyRequests) {
  HttpClient http = client();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(http.get("/healthz").status, 200);
  EXPECT_EQ(server->http_reading().connections_accepted, 1U);
}

TEST_F(Lifecycle, PipelinedRequestsAreAnsweredInOrder) {
  HttpClient http = client();
  std::string requests;
  for (int i = 0; i < 500; ++i) {
    requests +=
        "GET /healthz HTTP/1.1\r\nHost: t\r\nx-request-id: " + std::to_string(i) + "\r\n\r\n";
  }
  ASSERT_TRUE(http.send(requests));
  for (int i = 0; i < 500; ++i) {
    const HttpReply reply = http.read_reply();
    ASSERT_EQ(reply.status, 200) << i;
    ASSERT_EQ(reply.header("x-request-id"), std::to_string(i));
  }
}

TEST_F(Lifecycle, RequestsSentBeforeTheEndAreAnswered) {
  HttpClient http = client();
  http.send(
      "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\nGET /readyz HTTP/1.1\r\nHost: t\r\n\r\n"
      "GET / HTTP/1.1\r\nHost: t\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: t\r\n\r\n");
  http.finish_sending();
  EXPECT_EQ(http.read_reply().body, "ok\n");
  EXPECT_EQ(http.read_reply().body, "ready\n");
  EXPECT_EQ(http.read_reply().status, 200);
  EXPECT_EQ(http.read_reply().status, 200);
  bool closed = false;
  EXPECT_EQ(http.read_to_end(&closed), "");
  EXPECT_TRUE(closed);
}

TEST_F(Lifecycle, RequestBehindARunningOneWaits) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  http.send("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_complete({});
  EXPECT_NE(http.read_reply().body.find("\"result\""), std::string::npos);
  EXPECT_EQ(http.read_reply().body, "ok\n");
}

TEST_F(Lifecycle, ConnectionCloseIsHonoured) {
  HttpClient http = client();
  http.send("GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.header("Connection"), "close");
  bool closed = false;
  EXPECT_EQ(http.read_to_end(&closed), "");
  EXPECT_TRUE(closed);
}

TEST_F(Lifecycle, Http10ClosesUnlessAskedOtherwise) {
  HttpClient http = client();
  http.send("GET /healthz HTTP/1.0\r\n\r\n");
  EXPECT_EQ(http.read_reply().header("Connection"), "close");
  HttpClient kept = client();
  kept.send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(kept.read_reply().header("Connection"), "keep-alive");
  kept.send("GET /healthz HTTP/1.0\r\n\r\n");
  EXPECT_EQ(kept.read_reply().status, 200);
}

TEST_F(Lifecycle, ConnectionBeyondTheLimitIsToldSo) {
  options.max_connections = 1;
  start();
  HttpClient first = client();
  EXPECT_EQ(first.get("/healthz").status, 200);
  HttpClient second = client();
  const HttpReply reply = second.read_reply();  // without having asked
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(error_field(reply, "code"), "too_many_connections");
  EXPECT_EQ(reply.header("Retry-After"), "1");
  EXPECT_EQ(server->http_reading().connections_refused, 1U);
  second.hang_up();
  first.hang_up();
  EXPECT_TRUE(eventually([&] { return client().get("/healthz").status == 200; }));
}

TEST_F(Lifecycle, AcceptsAgainWhenFileDescriptorsAreBack) {
  const int next_fd = dup(STDIN_FILENO);
  ASSERT_GE(next_fd, 0);
  close(next_fd);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit one_more = before;
  one_more.rlim_cur = static_cast<rlim_t>(next_fd) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &one_more), 0);
  HttpClient http = client();  // takes the last one; none is left for the server's end
  const bool counted = eventually([&] { return server->http_reading().accept_failures > 0; });
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(counted);
  EXPECT_EQ(http.get("/healthz").status, 200);
}

TEST_F(Lifecycle, SlowHeaderTimesOut) {
  options.header_timeout = milliseconds(50);
  start();
  HttpClient http = client();
  http.send("GET /healthz HTTP/1.1\r\nHo");
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 408);
  EXPECT_EQ(error_field(reply, "code"), "request_timeout");
}

TEST_F(Lifecycle, SlowBodyTimesOut) {
  options.body_timeout = milliseconds(50);
  start();
  HttpClient http = client();
  http.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Content-Length: 9\r\n\r\n{");
  EXPECT_EQ(http.read_reply().status, 408);
}

TEST_F(Lifecycle, IdleConnectionIsClosed) {
  options.idle_timeout = milliseconds(50);
  start();
  HttpClient http = client();
  EXPECT_EQ(http.get("/healthz").status, 200);
  bool closed = false;
  EXPECT_EQ(http.read_to_end(&closed), "");
  EXPECT_TRUE(closed);
}

TEST_F(Lifecycle, RunningRequestHasNoTimeout) {
  options.idle_timeout = options.header_timeout = options.body_timeout = milliseconds(20);
  start();
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  std::this_thread::sleep_for(milliseconds(60));  // the timers are the kernel's, not the Clock's
  EXPECT_FALSE(request->cancelled.load());
  request->listener->on_complete({});
  EXPECT_EQ(http.read_reply().status, 200);
}

TEST_F(Lifecycle, DrainFinishesWhatRunsAndRefusesWhatIsNew) {
  HttpClient idle = client();
  EXPECT_EQ(idle.get("/healthz").status, 200);
  HttpClient running = client();
  running.send_post("/infer", R"({"prompt":"x"})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  HttpClient asking = client();
  const std::string late =
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Content-Length: 14\r\nExpect: 100-continue\r\n\r\n";
  asking.send(late);
  EXPECT_EQ(asking.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");  // in the middle of a request

  server->begin_drain();
  server->begin_drain();
  bool closed = false;
  EXPECT_EQ(idle.read_to_end(&closed), "");
  EXPECT_TRUE(closed);
  EXPECT_TRUE(eventually([&] { return client().connect_errno() == ECONNREFUSED; }));

  asking.send(R"({"prompt":"x"})");
  const HttpReply refused = asking.read_reply();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(error_field(refused, "code"), "draining");
  EXPECT_EQ(refused.header("Retry-After"), "1");
  EXPECT_EQ(refused.header("Connection"), "close");
  asking.hang_up();

  EXPECT_FALSE(server->wait_drained(milliseconds(20)));
  EXPECT_FALSE(request->cancelled.load());
  request->listener->on_complete({});
  const HttpReply reply = running.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.header("Connection"), "close");
  running.hang_up();
  EXPECT_TRUE(server->wait_drained(seconds(5)));
}

TEST_F(Lifecycle, HalfARequestHoldsADrainForSecondsOnly) {
  HttpClient header = client();
  header.send("POST /infer HTTP/1.1\r\nHost: t\r\n");
  HttpClient body = client();
  body.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Content-Length: 100000\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return server->http_reading().requests_in_flight == 2; }));
  server->begin_drain();
  // Bytes that trickle in do not win more time.
  const auto until = std::chrono::steady_clock::now() + milliseconds(2500);
  while (std::chrono::steady_clock::now() < until) {
    body.send(" ");
    std::this_thread::sleep_for(milliseconds(50));
  }
  for (HttpClient* const http : {&header, &body}) {
    const HttpReply reply = http->read_reply();
    EXPECT_EQ(reply.status, 503);
    EXPECT_EQ(error_field(reply, "code"), "draining");
    EXPECT_EQ(reply.header("Retry-After"), "1");
    http->hang_up();
  }
  EXPECT_TRUE(server->wait_drained(seconds(1)));
}

TEST_F(Lifecycle, ReadinessEndsWithTheDrain) {
  HttpClient http = client();
  http.send("GET /readyz HTTP/1.1\r\n");
  ASSERT_TRUE(eventually([&] { return server->http_reading().requests_in_flight == 1; }));
  server->begin_drain();
  http.send("Host: t\r\n\r\n");
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(error_field(reply, "code"), "draining");
}

TEST_F(Lifecycle, DestructionCancelsAndLateEventsAreHarmless) {
  HttpClient http = client();
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_text("Hi");
  server.reset();
  EXPECT_TRUE(request->cancelled.load());
  request->listener->on_text("late");
  request->listener->on_error(make_error(Code::kCancelled, "cancelled"));
  bool closed = false;
  http.read_to_end(&closed);
  EXPECT_TRUE(closed);
}

TEST_F(Lifecycle, ManyClientsAtOnceGetTheirOwnAnswers) {
  constexpr int kClients = 8;
  constexpr int kRequests = 25;
  std::jthread engine([this] {
    for (int i = 0; i < kClients * kRequests; ++i) {
      const auto [name, request] = executor.next();
      if (request == nullptr) return;
      request->listener->on_text(request->prompt);
      request->listener->on_complete({});
    }
  });
  std::atomic<int> right{0};
  {
    std::vector<std::jthread> clients;
    for (int c = 0; c < kClients; ++c) {
      clients.emplace_back([this, c, &right] {
        HttpClient http = client();
        for (int i = 0; i < kRequests; ++i) {
          const std::string word = std::to_string(c) + "-" + std::to_string(i);
          const HttpReply reply = http.post("/infer", R"({"prompt":")" + word + R"("})");
          if (reply.body.find("\"result\":\"" + word + "\"") != std::string::npos) ++right;
        }
      });
    }
  }
  EXPECT_EQ(right.load(), kClients * kRequests);
}

}  // namespace
}  // namespace weir::serve
