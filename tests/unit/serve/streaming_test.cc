// SPDX-License-Identifier: Apache-2.0
//
// Server-sent events: their bytes, and clients that leave or do not read.
#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using model::FinishReason;

class Streaming : public ServeTest {
 protected:
  /// The part of every event before "choices"; `created` is taken from the reply itself.
  static std::string event_head(const std::string& id, const std::string& body) {
    const std::size_t start = body.find("\"created\":") + 10;
    return R"(data: {"id":")" + id + R"(","object":"text_completion","created":)" +
           body.substr(start, body.find(',', start) - start) + R"(,"model":"tiny","choices":)";
  }
};

TEST_F(Streaming, EventsAreThoseOfOpenAi) {
  HttpClient http = client();
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_text("Hi");
  request->listener->on_text("\n\xC3\xA9");
  request->listener->on_complete({FinishReason::kStop, {1, 2}, {}, {}, {}});
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.header("Content-Type"), "text/event-stream");
  EXPECT_EQ(reply.header("Cache-Control"), "no-cache");
  const std::string head = event_head(request->id, reply.body);
  EXPECT_EQ(reply.body, head +
                            R"([{"text":"Hi","index":0,"logprobs":null,"finish_reason":null}]})"
                            "\n\n" +
                            head +
                            "[{\"text\":\"\\n\xC3\xA9\",\"index\":0,\"logprobs\":null,"
                            "\"finish_reason\":null}]}\n\n" +
                            head +
                            R"([{"text":"","index":0,"logprobs":null,"finish_reason":"stop"}]})"
                            "\n\n" +
                            "data: [DONE]\n\n");
  EXPECT_EQ(http.get("/healthz").status, 200);  // the connection is good for more
}

TEST_F(Streaming, UsageComesInItsOwnEventWhenAskedFor) {
  HttpClient http = client();
  http.send_post("/v1/completions",
                 R"({"prompt":"x","stream":true,"stream_options":{"include_usage":true}})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_complete({FinishReason::kLength, {1, 2}, {}, {}, {}});
  const HttpReply reply = http.read_reply();
  const std::string head = event_head(request->id, reply.body);
  EXPECT_EQ(reply.body,
            head +
                R"([{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],"usage":null})"
                "\n\n" +
                head +
                R"([],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}})"
                "\n\ndata: [DONE]\n\n");
}

TEST_F(Streaming, PiecesArriveWhileTheRequestRuns) {
  HttpClient http = client();
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_text("first");
  EXPECT_TRUE(http.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
  request->listener->on_complete({});
}

TEST_F(Streaming, FailureBeforeTheFirstPieceIsAnOrdinaryError) {
  HttpClient http = client();
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_error(make_error(Code::kInvalidArgument, "the prompt is too long"));
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(error_field(reply, "message"), "the prompt is too long");
}

TEST_F(Streaming, FailureBehindTheFirstPieceIsAnEventAndTheEnd) {
  HttpClient http = client();
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_text("Hi");
  request->listener->on_error(make_error(Code::kInternal, "decode failed"));
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.body.ends_with(
      "\n\ndata: {\"error\":{\"message\":\"decode failed\",\"type\":\"server_error\","
      "\"param\":null,\"code\":\"internal_error\"}}\n\n"))
      << reply.body;
  EXPECT_EQ(reply.body.find("[DONE]"), std::string::npos);
  bool closed = false;
  EXPECT_EQ(http.read_to_end(&closed), "");
  EXPECT_TRUE(closed);
}

TEST_F(Streaming, Http10GetsNoChunks) {
  HttpClient http = client();
  http.send(
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
      "Content-Length: 28\r\n\r\n{\"prompt\":\"x\",\"stream\":true}");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_complete({});
  const std::string head = http.read_head();
  EXPECT_EQ(head.find("Transfer-Encoding"), std::string::npos);
  bool closed = false;
  const std::string body = http.read_to_end(&closed);
  EXPECT_TRUE(body.starts_with("data: {"));
  EXPECT_TRUE(body.ends_with("}\n\ndata: [DONE]\n\n"));
  EXPECT_TRUE(closed);
}

TEST_F(Streaming, LeavingClientCancelsItsRequest) {
  for (const std::string body : {R"({"prompt":"x"})", R"({"prompt":"x","stream":true})"}) {
    HttpClient http = client();
    http.send_post("/v1/completions", body);
    const auto [name, request] = executor.next();
    ASSERT_NE(request, nullptr);
    request->listener->on_text("Hi");
    EXPECT_FALSE(request->cancelled.load());
    http.hang_up();
    EXPECT_TRUE(eventually([&] { return request->cancelled.load(); })) << body;
    request->listener->on_error(make_error(Code::kCancelled, "cancelled"));
  }
  EXPECT_TRUE(eventually([&] { return server->http_reading().connections == 0; }));
  EXPECT_EQ(server->http_reading().requests_in_flight, 0U);
}

TEST_F(Streaming, FinishedRequestIsNotCancelledWhenTheClientLeaves) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_complete({});
  EXPECT_EQ(http.read_reply().status, 200);
  http.hang_up();
  EXPECT_TRUE(eventually([&] { return server->http_reading().connections == 0; }));
  EXPECT_FALSE(request->cancelled.load());
}

TEST_F(Streaming, ClientThatDoesNotReadIsCut) {
  options.max_stream_bytes = 4096;
  start();
  HttpClient http(server->endpoint(), 4096);
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  // The kernel's send buffer takes a few MiB before the server's own begins to fill.
  const std::string piece(64 * 1024, 'x');
  for (int i = 0; i < 1024 && !request->cancelled.load(); ++i) {
    request->listener->on_text(piece);
    std::this_thread::yield();
  }
  EXPECT_TRUE(eventually([&] { return request->cancelled.load(); }));
  EXPECT_EQ(server->http_reading().slow_readers_cut, 1U);
  EXPECT_TRUE(eventually([&] { return server->http_reading().connections == 0; }));
}

TEST_F(Streaming, ASlowReaderIsToldToTheEngineBeforeItIsCut) {
  options.max_stream_bytes = 64 << 20;
  start();
  HttpClient http(server->endpoint(), 4096);
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_TRUE(request->listener->wants_more());
  const std::string piece(1 << 20, 'x');
  int pieces = 0;
  while (request->listener->wants_more() && pieces < 64) {
    request->listener->on_text(piece);
    ++pieces;
  }
  // Half of what may wait, and what the kernel's buffers took.
  EXPECT_GE(pieces, 32);
  EXPECT_LT(pieces, 64);
  EXPECT_FALSE(request->cancelled.load());
  request->listener->on_complete({});
  std::size_t received = 0;
  const std::string body = http.read_reply().body;
  for (const char c : body) received += c == 'x' ? 1U : 0U;
  EXPECT_GE(received, static_cast<std::size_t>(pieces) << 20U);
  EXPECT_TRUE(request->listener->wants_more()) << "all is taken";
}

TEST_F(Streaming, WhatNoModelMadeIsMarked) {
  for (const bool stream : {false, true}) {
    HttpClient http = client();
    http.send_post("/v1/completions",
                   stream ? R"({"prompt":"x","stream":true})" : R"({"prompt":"x"})");
    const auto [name, request] = executor.next();
    ASSERT_NE(request, nullptr);
    request->listener->on_degraded(stream ? model::Degraded::kDefault : model::Degraded::kCached);
    request->listener->on_text("sorry");
    request->listener->on_complete({});
    EXPECT_EQ(http.read_reply().header("X-Weir-Degraded"), stream ? "default" : "cached");
    http.send_post("/v1/completions", R"({"prompt":"x"})");
    executor.next().request->listener->on_complete({});
    EXPECT_EQ(http.read_reply().header("X-Weir-Degraded"), "");
  }
}

TEST_F(Streaming, ClientThatStopsReadingTimesOut) {
  options.write_timeout = std::chrono::milliseconds(50);
  options.max_stream_bytes = 64 << 20;
  start();
  HttpClient http(server->endpoint(), 4096);
  http.send_post("/v1/completions", R"({"prompt":"x","stream":true})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_text(std::string(16 << 20, 'x'));
  EXPECT_TRUE(eventually([&] { return request->cancelled.load(); }));
  EXPECT_EQ(server->http_reading().slow_readers_cut, 1U);
}

}  // namespace
}  // namespace weir::serve
