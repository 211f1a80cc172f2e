// SPDX-License-Identifier: Apache-2.0
//
// What listeners tell their group, and how a server hands over.
#include <sys/socket.h>

#include <array>
#include <deque>

#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Remembers what it is told.
class RecordingGroup final : public ListenerGroup {
 public:
  struct Told {
    std::atomic<int> accepted{0};
    std::atomic<std::uint32_t> waiting{0};
    std::atomic<int> queue_readings{0};
    std::atomic<bool> left{false};
  };

  Result<std::unique_ptr<ListenerSeat>> join(int listening_socket) override {
    if (joined >= places) return make_error(Code::kResourceExhausted, "all places are taken");
    int listens = 0;
    socklen_t bytes = sizeof(listens);
    getsockopt(listening_socket, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes);
    EXPECT_EQ(listens, 1);
    return std::unique_ptr<ListenerSeat>(std::make_unique<Seat>(told.at(joined++)));
  }
  void leave() override { left = true; }

  [[nodiscard]] int accepted() const { return told[0].accepted + told[1].accepted; }
  [[nodiscard]] std::uint32_t waiting() const { return told[0].waiting + told[1].waiting; }

  std::size_t places = 2;
  std::size_t joined = 0;
  std::atomic<bool> left{false};
  std::array<Told, 2> told;

 private:
  class Seat final : public ListenerSeat {
   public:
    explicit Seat(Told& told) : told_(told) {}
    void leave() override { told_.left = true; }
    void accepted() override { ++told_.accepted; }
    void set_waiting(std::uint32_t requests) override { told_.waiting = requests; }
    void set_queued(std::uint32_t connections) override {
      if (connections == 0) ++told_.queue_readings;
    }
    [[nodiscard]] ListenerReading read() const override { return {told_.waiting, 0, 7}; }

   private:
    Told& told_;
  };
};

class Listeners : public ServeTest {
 protected:
  void join() {
    const Status joined = server->join(group);
    ASSERT_TRUE(joined.ok()) << joined.error().message;
  }
  void TearDown() override { server.reset(); }  // before the group

  RecordingGroup group;
};

TEST_F(Listeners, EveryConnectionAndEveryRequestIsTold) {
  join();
  EXPECT_EQ(group.joined, 2U);
  std::deque<HttpClient> clients;
  for (int i = 0; i < 10; ++i) {
    clients.emplace_back(server->endpoint());
    EXPECT_EQ(clients.back().get("/healthz").status, 200);
    EXPECT_EQ(group.accepted(), i + 1);
  }
  EXPECT_TRUE(eventually([this] { return group.waiting() == 0; }));

  clients[0].send_post("/infer", R"({"prompt":"x"})");
  clients[1].send("GET /healthz HTTP/1.1\r\nHo");  // half a request is one, too
  EXPECT_TRUE(eventually([this] { return group.waiting() == 2; }));
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_complete({});
  EXPECT_EQ(clients[0].read_reply().status, 200);
  EXPECT_TRUE(eventually([this] { return group.waiting() == 1; }));
  clients[1].hang_up();
  EXPECT_TRUE(eventually([this] { return group.waiting() == 0; }));
}

TEST_F(Listeners, RequestsFromBeforeItJoinedCount) {
  HttpClient early = client();
  early.send_post("/infer", R"({"prompt":"x"})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  join();
  EXPECT_EQ(group.waiting(), 1U);
  request->listener->on_complete({});
  EXPECT_EQ(early.read_reply().status, 200);
}

TEST_F(Listeners, QueueIsReadAgainAndAgain) {
  join();
  EXPECT_TRUE(eventually(
      [this] { return group.told[0].queue_readings >= 3 && group.told[1].queue_readings >= 3; }));
}

TEST_F(Listeners, RefusedSeatIsReportedAndTheServerGoesOn) {
  group.places = 1;
  const Status joined = server->join(group);
  ASSERT_FALSE(joined.ok());
  EXPECT_EQ(joined.error().code, Code::kResourceExhausted);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(client().get("/healthz").status, 200);
}

TEST_F(Listeners, ReadingHasOneRowPerThread) {
  join();
  HttpClient http = client();
  EXPECT_EQ(http.get("/healthz").status, 200);
  const auto listeners = server->http_reading().listeners;
  ASSERT_EQ(listeners.size(), 2U);
  EXPECT_EQ(listeners[0].connections + listeners[1].connections, 1U);
  EXPECT_EQ(listeners[0].taken_over, 7U);
}

TEST_F(Listeners, DrainLeavesBeforeTheSocketsClose) {
  join();
  server->begin_drain();
  EXPECT_TRUE(server->wait_drained(seconds(5)));
  EXPECT_TRUE(group.told[0].left);
  EXPECT_TRUE(group.told[1].left);
  EXPECT_FALSE(group.left);
}

TEST_F(Listeners, HandOverServesOpenConnectionsAndSendsThemOn) {
  join();
  HttpClient idle = client();
  EXPECT_EQ(idle.get("/healthz").status, 200);
  HttpClient fresh = client();
  EXPECT_TRUE(eventually([this] { return group.accepted() == 2; }));
  HttpClient running = client();
  running.send_post("/infer", R"({"prompt":"x"})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);

  server->begin_hand_over();
  EXPECT_TRUE(group.left);
  EXPECT_TRUE(eventually([&] { return client().connect_errno() == ECONNREFUSED; }));
  EXPECT_FALSE(server->wait_drained(milliseconds(20)));

  // Idle connections are not cut: each has one more request, also one that generates.
  EXPECT_EQ(fresh.get("/readyz").status, 200);
  idle.send_post("/infer", R"({"prompt":"y"})");
  const auto [late_name, late] = executor.next();
  ASSERT_NE(late, nullptr);
  late->listener->on_complete({});
  const HttpReply last = idle.read_reply();
  EXPECT_EQ(last.status, 200);
  EXPECT_EQ(last.header("Connection"), "close");
  idle.hang_up();
  fresh.hang_up();

  EXPECT_FALSE(request->cancelled.load());
  request->listener->on_complete({});
  EXPECT_EQ(running.read_reply().status, 200);
  running.hang_up();
  EXPECT_TRUE(server->wait_drained(seconds(5)));
}

TEST_F(Listeners, HandOverDuringAnAnswerKeepsWhatTheAnswerPromised) {
  HttpClient http = client();
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_text("Hi");
  EXPECT_EQ(http.read_head().find("Connection: close"), std::string::npos);
  server->begin_hand_over();
  request->listener->on_complete({});
  EXPECT_TRUE(http.read_head().ends_with("0\r\n\r\n"));  // the last chunk
  const HttpReply next = http.get("/healthz");
  EXPECT_EQ(next.status, 200);
  EXPECT_EQ(next.header("Connection"), "close");
}

TEST_F(Listeners, HandOverEndsConnectionsThatSayNothing) {
  options.hand_over_grace = milliseconds(50);
  start();
  HttpClient idle = client();
  EXPECT_EQ(idle.get("/healthz").status, 200);
  const auto before = std::chrono::steady_clock::now();
  server->begin_hand_over();
  bool closed = false;
  EXPECT_EQ(idle.read_to_end(&closed), "");
  EXPECT_TRUE(closed);
  EXPECT_GT(std::chrono::steady_clock::now() - before, milliseconds(50));
}

TEST_F(Listeners, SecondServerSharesThePortOnlyWhenAsked) {
  options.listen = server->endpoint();
  auto refused = HttpServer::create(options, executor, *admission, metrics, clock);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().os_errno, EADDRINUSE);
  options.share_port = true;
  auto second = HttpServer::create(options, executor, *admission, metrics, clock);
  ASSERT_TRUE(second.ok()) << second.error().message;
  server->begin_hand_over();
  EXPECT_TRUE(server->wait_drained(seconds(5)));
  EXPECT_EQ(client().get("/healthz").status, 200);
  EXPECT_EQ((*second)->http_reading().connections_accepted, 1U);
}

}  // namespace
}  // namespace weir::serve
