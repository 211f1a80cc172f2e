// SPDX-License-Identifier: Apache-2.0
//
// Every way in which a request is refused: status, code, and what the client is told to do next.
#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using model::Refusal;
using model::RefusalReason;
using std::chrono::seconds;

class Errors : public ServeTest {};

TEST_F(Errors, UnknownModelListsTheKnownOnes) {
  HttpClient http = client();
  const HttpReply reply = http.post("/infer", R"({"model":"huge","prompt":"x"})");
  EXPECT_EQ(reply.status, 404);
  EXPECT_EQ(error_field(reply, "code"), "model_not_found");
  EXPECT_EQ(error_field(reply, "param"), "model");
  EXPECT_EQ(error_field(reply, "message"), "there is no model \"huge\"; configured: tiny");
  EXPECT_EQ(executor.submissions(), 0U);
}

TEST_F(Errors, ModelIsRequiredWhenThereAreSeveral) {
  executor.set_models({model_named("a", State::kReady), model_named("b", State::kReady)});
  HttpClient http = client();
  const HttpReply reply = http.post("/v1/completions", R"({"prompt":"x"})");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(error_field(reply, "code"), "missing_model");
  EXPECT_EQ(error_field(reply, "param"), "model");
  EXPECT_EQ(error_field(reply, "message"),
            "\"model\" is required, as more than one is for this: a, b");
}

TEST_F(Errors, RouteWithoutAModelNamesThoseOfOthers) {
  HttpClient http = client();
  const HttpReply reply = http.post("/v1/embeddings", R"({"input":"x"})");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(error_field(reply, "code"), "missing_model");
  EXPECT_EQ(error_field(reply, "message"),
            "no model is configured for this; tiny generates text: POST /v1/completions, /infer");
}

TEST_F(Errors, BodyMustBeDeclaredAsJson) {
  HttpClient http = client();
  http.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: text/plain\r\n"
      "Content-Length: 2\r\n\r\n{}");
  HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 415);
  EXPECT_EQ(error_field(reply, "message"), "Content-Type must be application/json, not text/plain");
  HttpClient bare = client();
  bare.send("POST /infer HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(bare.read_reply().status, 415);
  HttpClient packed = client();
  EXPECT_EQ(packed.post("/infer", "{}", "Content-Encoding: gzip\r\n").status, 415);
  HttpClient charset = client();
  charset.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: Application/JSON; charset=utf-8\r\n"
      "Content-Length: 2\r\n\r\n{}");
  EXPECT_EQ(error_field(charset.read_reply(), "message"), "\"prompt\" is required");
}

TEST_F(Errors, MalformedHttpIs400AndCloses) {
  for (const std::string text :
       {"nonsense\r\n\r\n", "GET /healthz HTTP/1.1\r\n\r\n",
        "GET healthz HTTP/1.1\r\nHost: t\r\n\r\n", "GET /%zz HTTP/1.1\r\nHost: t\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"}) {
    HttpClient http = client();
    http.send(text);
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, 400) << text;
    EXPECT_EQ(error_field(reply, "code"), "malformed_request") << text;
  }
}

TEST_F(Errors, TooLargeBodyIsRefusedBeforeItIsRead) {
  HttpClient http = client();
  // The body is never sent: an answer proves that it was not waited for.
  http.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Content-Length: 1048577\r\nx-request-id: big\r\n\r\n");
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 413);
  EXPECT_EQ(reply.header("Connection"), "close");
  EXPECT_EQ(reply.header("x-request-id"), "big");
  EXPECT_EQ(error_field(reply, "code"), "body_too_large");
  EXPECT_EQ(error_field(reply, "message"),
            "the body has 1048577 bytes; at most 1048576 are accepted (max_body_bytes)");
}

TEST_F(Errors, TooLargeChunkedBodyIsCutOff) {
  HttpClient http = client();
  http.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n200000\r\n" +
      std::string(0x200000, ' '));
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 413);
  EXPECT_EQ(error_field(reply, "code"), "body_too_large");
}

TEST_F(Errors, ChunkedBodyIsRead) {
  HttpClient http = client();
  http.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n9\r\n{\"prompt\"\r\n5\r\n:\"x\"}\r\n0\r\n\r\n");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(request->prompt, "x");
}

TEST_F(Errors, EndlessChunkExtensionsAndTrailersAreCutOff) {
  for (const std::string start : {"1;", "0\r\nX: "}) {
    HttpClient http = client();
    http.send(
        "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n" +
        start + std::string(17 * 1024, 'x'));
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, 400) << start;
    EXPECT_EQ(
        error_field(reply, "message"),
        "not an HTTP/1.1 request: the line before a chunk, or the trailer, exceeds 16384 bytes");
    EXPECT_EQ(reply.header("Connection"), "close");
  }
}

TEST_F(Errors, NothingBehindAnUnknownTransferEncodingIsReadAsARequest) {
  for (const std::string encoding : {"gzip", "gzip, chunked"}) {
    HttpClient http = client();
    http.send("POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n" +
              ("Transfer-Encoding: " + encoding) +
              "\r\n\r\nGET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, 501) << encoding;
    EXPECT_EQ(error_field(reply, "message"),
              "the only Transfer-Encoding is chunked, not " + encoding);
    EXPECT_EQ(reply.header("Connection"), "close");
    EXPECT_EQ(http.read_to_end(), "");
  }
}

TEST_F(Errors, RefusedHeadHasNoBody) {
  HttpClient http = client();
  http.send("HEAD / HTTP/1.1\r\n\r\n");  // without Host
  EXPECT_EQ(http.read_reply(true).status, 400);
  EXPECT_EQ(http.get("/healthz").status, 200);  // would begin with the body of the answer above
}

TEST_F(Errors, WhatTheEngineFindsInvalidIsThePrompt) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  request->listener->on_error(make_error(Code::kInvalidArgument, "too long"));
  EXPECT_EQ(error_field(http.read_reply(), "param"), "prompt");
}

TEST_F(Errors, TooLargeHeaderIs431) {
  HttpClient http = client();
  http.send("GET / HTTP/1.1\r\nHost: t\r\nX: " + std::string(17 * 1024, 'x') + "\r\n\r\n");
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 431);
  EXPECT_EQ(error_field(reply, "code"), "header_too_large");
}

TEST_F(Errors, ExpectContinueIsAnsweredBeforeTheBody) {
  HttpClient http = client();
  http.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Expect: 100-continue\r\nContent-Length: 14\r\n\r\n");
  EXPECT_EQ(http.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
  http.send(R"({"prompt":"x"})");
  ASSERT_NE(executor.next().request, nullptr);
  HttpClient refused = client();
  refused.send(
      "POST /nowhere HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\n"
      "Content-Length: 14\r\n\r\n");
  EXPECT_EQ(refused.read_reply().status, 404);
  HttpClient other = client();
  other.send("GET / HTTP/1.1\r\nHost: t\r\nExpect: miracles\r\n\r\n");
  EXPECT_EQ(other.read_reply().status, 417);
}

TEST_F(Errors, RefusalsSayWhyAndWhenToComeBack) {
  struct Case {
    Refusal refusal;
    int status;
    std::string code, retry_after, should_retry;
  };
  const std::vector<Case> cases = {
      {{RefusalReason::kQueueFull, "full", seconds(7)}, 429, "queue_full", "7", ""},
      {{RefusalReason::kRateLimited, "slow", seconds(2)}, 429, "rate_limited", "2", ""},
      {{RefusalReason::kDeadline, "late", std::nullopt}, 429, "deadline", "", "false"},
      {{RefusalReason::kMemory, "memory", seconds(3)}, 429, "memory", "3", ""},
      {{RefusalReason::kDraining, "bye", std::nullopt}, 503, "draining", "1", ""},
      {{RefusalReason::kLoading, "wait", seconds(4)}, 503, "loading", "4", ""},
  };
  HttpClient http = client();
  for (const Case& expected : cases) {
    executor.refuse_with(expected.refusal);
    const HttpReply reply = http.post("/v1/completions", R"({"prompt":"x","stream":true})");
    EXPECT_EQ(reply.status, expected.status) << expected.code;
    EXPECT_EQ(error_field(reply, "code"), expected.code);
    EXPECT_EQ(error_field(reply, "message"), expected.refusal.message);
    EXPECT_EQ(error_field(reply, "type"),
              expected.status == 429 ? "rate_limit_error" : "unavailable_error");
    EXPECT_EQ(reply.header("Retry-After"), expected.retry_after) << expected.code;
    EXPECT_EQ(reply.header("x-should-retry"), expected.should_retry) << expected.code;
  }
  const auto reading = server->http_reading();
  EXPECT_EQ(reading.refusals[static_cast<std::size_t>(RefusalReason::kQueueFull)], 1U);
  EXPECT_EQ(reading.refusals[static_cast<std::size_t>(RefusalReason::kLoading)], 1U);
  EXPECT_EQ(reading.refusals[static_cast<std::size_t>(RefusalReason::kCancelled)], 0U);
}

TEST_F(Errors, FailuresOfAcceptedRequestsKeepTheirMeaning) {
  struct Case {
    Code code;
    int status;
    std::string name;
  };
  HttpClient http = client();
  for (const Case& expected : std::vector<Case>{{Code::kInvalidArgument, 400, "invalid_value"},
                                                {Code::kResourceExhausted, 429, "memory"},
                                                {Code::kUnavailable, 503, "unavailable"},
                                                {Code::kCancelled, 503, "cancelled"},
                                                {Code::kInternal, 500, "internal_error"},
                                                {Code::kIo, 500, "internal_error"}}) {
    http.send_post("/infer", R"({"prompt":"x"})");
    const auto [name, request] = executor.next();
    ASSERT_NE(request, nullptr);
    request->listener->on_error(make_error(expected.code, "because"));
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, expected.status);
    EXPECT_EQ(error_field(reply, "code"), expected.name);
    EXPECT_EQ(error_field(reply, "message"), "because");
  }
}

TEST_F(Errors, CancelledBehindItsDeadlineIsADeadlineRefusal) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x","deadline_ms":100})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  clock.advance(std::chrono::milliseconds(100));
  request->listener->on_error(make_error(Code::kCancelled, "too late"));
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(error_field(reply, "code"), "deadline");
  EXPECT_EQ(reply.header("x-should-retry"), "false");
}

TEST_F(Errors, DroppedRequestIsAnsweredAll) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  ASSERT_NE(executor.next().request, nullptr);  // and let go
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 500);
  EXPECT_EQ(error_field(reply, "message"), "the request was dropped without an answer");
}

TEST_F(Errors, OptionsAreCheckedWithFieldAndLimit) {
  const auto message = [&](auto change) {
    ServeOptions changed = options;
    change(changed);
    const auto made = HttpServer::create(changed, executor, *admission, metrics, clock);
    return made.ok() ? "accepted" : made.error().message;
  };
  EXPECT_EQ(message([](ServeOptions& o) { o.io_threads = 257; }),
            "io_threads is 257; it must be in 1..256");
  EXPECT_EQ(message([](ServeOptions& o) { o.max_body_bytes = (1ULL << 30U) + 1; }),
            "max_body_bytes is 1073741825; it must be in 1024..1073741824");
  EXPECT_EQ(message([](ServeOptions& o) { o.default_timeout = std::chrono::milliseconds(0); }),
            "default_timeout_ms is 0; it must be in 1..86400000");
  EXPECT_EQ(message([](ServeOptions& o) { o.max_body_bytes = 1ULL << 30U; }), "accepted");
}

TEST_F(Errors, PortInUseIsReported) {
  ServeOptions same = options;
  same.listen = server->endpoint();
  const auto result = HttpServer::create(same, executor, *admission, metrics, clock);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().os_errno, EADDRINUSE);
  EXPECT_NE(result.error().message.find(server->endpoint().to_string()), std::string::npos);
}

}  // namespace
}  // namespace weir::serve
