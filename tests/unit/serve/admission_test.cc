// SPDX-License-Identifier: Apache-2.0
//
// What is decided before a byte of the body is read, and that everything set aside comes back.
#include <random>

#include "agent/serve/refusal_log.h"
#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using admit::Stage;
using model::RefusalReason;
using std::chrono::milliseconds;
using std::chrono::seconds;

class AdmissionAtTheFront : public ServeTest {
 protected:
  /// The header of a POST whose body is not sent; `more` ends with CRLF.
  static std::string head(std::size_t content_length, const std::string& more = "") {
    return "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n" + more +
           "Content-Length: " + std::to_string(content_length) + "\r\n\r\n";
  }
  /// Until all that was set aside is back.
  void expect_nothing_reserved() const {
    EXPECT_TRUE(eventually([&] {
      const admit::AdmissionReading reading = admission->reading();
      return reading.requests == 0 && reading.reserved_bytes == 0;
    }));
  }
  static admit::RateRule one_request_per(double seconds_each) {
    admit::RateRule rule;
    rule.requests_per_second = 1 / seconds_each;
    return rule;
  }
};

TEST_F(AdmissionAtTheFront, BadHeadersAreNamedWithValueAndRange) {
  struct Case {
    std::string header, value, message;
  };
  const std::string long_name(65, 'a');
  for (const Case& bad : std::vector<Case>{
           {"x-weir-priority", "8", "x-weir-priority must be an integer in 0..7, not \"8\""},
           {"x-weir-priority", "-1", "x-weir-priority must be an integer in 0..7, not \"-1\""},
           {"x-weir-priority", "high", "x-weir-priority must be an integer in 0..7, not \"high\""},
           {"x-weir-priority", "3 ", ""},  // trailing blanks are no part of the value
           {"x-weir-timeout-ms", "0",
            "x-weir-timeout-ms must be an integer in 1..86400000, not \"0\""},
           {"x-weir-timeout-ms", "86400001",
            "x-weir-timeout-ms must be an integer in 1..86400000, not \"86400001\""},
           {"x-weir-timeout-ms", "1.5",
            "x-weir-timeout-ms must be an integer in 1..86400000, not \"1.5\""},
           {"x-weir-timeout-ms", "99999999999999999999",
            "x-weir-timeout-ms must be an integer in 1..86400000, not \"99999999999999999999\""},
           {"x-weir-tenant", "a b",
            "x-weir-tenant must be 1..64 characters of [A-Za-z0-9._-], not \"a b\""},
           {"x-weir-tenant", long_name,
            "x-weir-tenant must be 1..64 characters of [A-Za-z0-9._-], not \"" + long_name + "\""},
           {"x-weir-model", "a/b",
            "x-weir-model must be 1..128 characters of [A-Za-z0-9._-], not \"a/b\""}}) {
    HttpClient http = client();
    http.send(head(1000, bad.header + ": " + bad.value + "\r\n"));
    if (bad.message.empty()) {
      http.send(std::string(1000, ' '));
      EXPECT_EQ(error_field(http.read_reply(), "code"), "invalid_json") << bad.value;
      continue;
    }
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, 400) << bad.header;
    EXPECT_EQ(error_field(reply, "code"), "invalid_header");
    EXPECT_EQ(error_field(reply, "param"), bad.header);
    EXPECT_EQ(error_field(reply, "message"), bad.message);
  }
  expect_nothing_reserved();
}

// A gateway that adds the tenant behind the one that a client made up must not be overheard.
TEST_F(AdmissionAtTheFront, NoHeaderThatDecidesMayBeSentTwice) {
  for (const char* const name :
       {"x-weir-tenant", "x-weir-model", "x-weir-priority", "x-weir-timeout-ms"}) {
    HttpClient http = client();
    const std::string field(name);
    const HttpReply reply =
        http.post("/infer", R"({"prompt":"x"})",
                  field + ": 1\r\nA: b\r\n" + "X-W" + field.substr(3) + ": 2\r\n");
    EXPECT_EQ(reply.status, 400) << name;
    EXPECT_EQ(error_field(reply, "code"), "invalid_header");
    EXPECT_EQ(error_field(reply, "param"), name);
    EXPECT_EQ(error_field(reply, "message"), field + " must not be sent more than once");
  }
  expect_nothing_reserved();
}

TEST_F(AdmissionAtTheFront, ARequestHasOneHostAndOneLength) {
  const std::string start = "POST /infer HTTP/1.1\r\nContent-Type: application/json\r\n";
  for (const auto& [fields, message] : std::vector<std::pair<std::string, std::string>>{
           {"Host: a\r\nHost: b\r\nContent-Length: 2\r\n", "there is more than one Host header"},
           {"Host: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n",
            "Content-Length must be one number"},
           {"Host: a\r\nContent-Length: 2, 2\r\n", "Content-Length must be one number"}}) {
    HttpClient http = client();
    http.send(start + fields + "\r\n{}");
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, 400) << fields;
    EXPECT_EQ(error_field(reply, "message"), message);
  }
  expect_nothing_reserved();
}

TEST_F(AdmissionAtTheFront, HeadersReachTheRequest) {
  HttpClient http = client();
  http.send_post("/v1/completions", R"({"prompt":"x"})",
                 "X-Weir-Tenant: acme\r\nx-weir-model: tiny\r\nx-weir-priority: 1\r\n"
                 "x-weir-timeout-ms: 500\r\n");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(name, "tiny");
  EXPECT_EQ(request->tenant, "acme");
  EXPECT_EQ(request->route, "/v1/completions");
  EXPECT_EQ(request->priority, 1);
  EXPECT_EQ(request->deadline, clock.now() + milliseconds(500));
  EXPECT_NE(request->reservation, nullptr);
}

TEST_F(AdmissionAtTheFront, TheHeaderOfTheTenantIsConfigured) {
  options.tenant_header = "x-team";
  start();
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})", "x-team: blue\r\nx-weir-tenant: other\r\n");
  EXPECT_EQ(executor.next().request->tenant, "blue");
  http.read_reply();
  HttpClient bare = client();
  bare.send_post("/infer", R"({"prompt":"x"})");
  EXPECT_EQ(executor.next().request->tenant, "default");
}

TEST_F(AdmissionAtTheFront, OfTwoDeadlinesTheEarlierHoldsAndTheBodysPriority) {
  struct Case {
    std::string header, body;
    int deadline_ms;
  };
  for (const Case& both : std::vector<Case>{{"300", "500", 300}, {"500", "300", 300}}) {
    HttpClient http = client();
    http.send_post("/infer", R"({"prompt":"x","priority":6,"deadline_ms":)" + both.body + "}",
                   "x-weir-priority: 2\r\nx-weir-timeout-ms: " + both.header + "\r\n");
    const auto [name, request] = executor.next();
    ASSERT_NE(request, nullptr);
    EXPECT_EQ(request->deadline, clock.now() + milliseconds(both.deadline_ms));
    EXPECT_EQ(request->priority, 6);
  }
}

TEST_F(AdmissionAtTheFront, TheDefaultTimeoutIsForThoseWhoNameNone) {
  options.default_timeout = milliseconds(1000);
  start();
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  EXPECT_EQ(executor.next().request->deadline, clock.now() + milliseconds(1000));
  http.read_reply();
  HttpClient longer = client();
  longer.send_post("/infer", R"({"prompt":"x","deadline_ms":5000})");
  EXPECT_EQ(executor.next().request->deadline, clock.now() + milliseconds(5000));
}

TEST_F(AdmissionAtTheFront, TwoModelsThatDifferAreAnError) {
  executor.set_models({model_named("a", State::kReady), model_named("b", State::kReady)});
  HttpClient http = client();
  HttpReply reply = http.post("/infer", R"({"model":"b","prompt":"x"})", "x-weir-model: a\r\n");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(error_field(reply, "message"), "\"model\" is \"b\", but x-weir-model is \"a\"");
  reply = http.post("/infer", R"({"prompt":"x"})", "x-weir-model: c\r\n");
  EXPECT_EQ(reply.status, 404);
  EXPECT_EQ(error_field(reply, "param"), "x-weir-model");
  http.send_post("/infer", R"({"prompt":"x"})", "x-weir-model: a\r\n");
  EXPECT_EQ(executor.next().model, "a");
}

TEST_F(AdmissionAtTheFront, ARefusalComesBeforeTheBody) {
  admission_options.rate_rules = {one_request_per(2.5)};
  admission_options.models = {{"tiny", std::nullopt, 0}};
  start();
  HttpClient first = client();
  EXPECT_EQ(first.post("/infer", "{}").status, 400);
  HttpClient second = client();
  second.send(head(100'000));
  const HttpReply reply = second.read_reply();
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(error_field(reply, "code"), "rate_limited");
  EXPECT_EQ(reply.header("Retry-After"), "3");
  EXPECT_EQ(reply.header("x-should-retry"), "");
  EXPECT_EQ(reply.header("Connection"), "close");
  HttpClient other = client();
  EXPECT_EQ(other.post("/infer", "{}", "x-weir-tenant: other\r\n").status, 400);
  clock.advance(seconds(3));
  EXPECT_EQ(other.post("/infer", "{}").status, 400);
  EXPECT_EQ(refusals(Stage::kHead, RefusalReason::kRateLimited), 1U);
  EXPECT_EQ(server->http_reading().refusals[static_cast<std::size_t>(RefusalReason::kRateLimited)],
            1U);
  expect_nothing_reserved();
}

TEST_F(AdmissionAtTheFront, ARefusalKeepsTheConnectionWhenTheBodyCameAlong) {
  admission_options.max_requests = 1;
  start();
  HttpClient holder = client();
  holder.send(head(10));
  ASSERT_TRUE(eventually([&] { return admission->reading().requests == 1; }));
  HttpClient http = client();
  for (int i = 0; i < 3; ++i) {
    const HttpReply reply = http.post("/infer", R"({"prompt":"x"})");
    EXPECT_EQ(reply.status, 429);
    EXPECT_EQ(error_field(reply, "code"), "queue_full");
    EXPECT_EQ(reply.header("Connection"), "");
  }
  EXPECT_EQ(http.get("/healthz").status, 200) << "health needs no place";
  EXPECT_EQ(server->http_reading().connections_accepted, 2U);
}

TEST_F(AdmissionAtTheFront, AClientThatIsStillSendingGetsTheAnswer) {
  admission_options.memory_bytes = 1 << 20;
  options.max_body_bytes = 64 << 20;
  start();
  for (const std::string reason : {"memory", "body_too_large"}) {
    HttpClient http = client();
    const std::size_t size = reason == "memory" ? 48 << 20 : 96 << 20;
    // The answer lies there long before the last byte is sent; a reset would take it away.
    http.send(head(size));
    const std::string piece(1 << 20, ' ');
    for (std::size_t sent = 0; sent < size; sent += piece.size()) {
      ASSERT_TRUE(http.send(piece)) << reason << " at " << sent;
    }
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, reason == "memory" ? 429 : 413);
    EXPECT_EQ(error_field(reply, "code"), reason);
    if (reason == "memory") {
      EXPECT_EQ(reply.header("x-should-retry"), "false") << "it never fits";
    }
  }
  expect_nothing_reserved();
}

TEST_F(AdmissionAtTheFront, MemoryForBodiesIsBounded) {
  admission_options.memory_bytes = 1 << 20;
  start();
  HttpClient first = client();
  first.send(head(300'000, "Expect: 100-continue\r\n"));
  first.read_head();
  HttpClient second = client();
  second.send(head(300'000));
  const HttpReply reply = second.read_reply();
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(error_field(reply, "code"), "memory");
  EXPECT_EQ(reply.header("Retry-After"), "1");
  HttpClient small = client();
  small.send_post("/infer", R"({"prompt":"x"})");
  EXPECT_NE(executor.next().request, nullptr) << "a small one is served meanwhile";
  small.read_reply();
  first.hang_up();
  expect_nothing_reserved();
  EXPECT_EQ(client().post("/infer", std::string(300'000, ' ')).status, 400);  // read, and no JSON
}

TEST_F(AdmissionAtTheFront, AChunkedBodyCountsAsTheLargest) {
  admission_options.memory_bytes = 1 << 20;
  options.max_body_bytes = 1 << 20;
  start();
  HttpClient http = client();
  http.send(
      "POST /infer HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(error_field(http.read_reply(), "code"), "memory");
}

TEST_F(AdmissionAtTheFront, AHopelessDeadlineIsRefusedAtOnce) {
  admission_options.models = {{"tiny", std::nullopt, 0}};
  admission_options.predicted_wait = [](std::string_view, std::int32_t) {
    return std::optional<Duration>(seconds(2));
  };
  start();
  HttpClient http = client();
  http.send(head(1000, "x-weir-timeout-ms: 1999\r\n"));
  HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(error_field(reply, "code"), "deadline");
  EXPECT_EQ(reply.header("x-should-retry"), "false");
  EXPECT_EQ(reply.header("Retry-After"), "");
  HttpClient body = client();
  reply = body.post("/infer", R"({"prompt":"x","deadline_ms":1999})");
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(error_field(reply, "code"), "deadline");
  EXPECT_EQ(refusals(Stage::kHead, RefusalReason::kDeadline), 1U);
  EXPECT_EQ(refusals(Stage::kBody, RefusalReason::kDeadline), 1U);
  EXPECT_EQ(executor.submissions(), 0U);
  expect_nothing_reserved();
}

TEST_F(AdmissionAtTheFront, TheReservationIsCorrectedAndGoesBackWithTheAnswer) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"xxxx","max_tokens":7})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(admission->reading().reserved_bytes,
            4 + admit::kAnswerBytes + (1 + 7) * admit::kTokenBytes);
  request->listener->on_complete({});
  EXPECT_EQ(http.read_reply().status, 200);
  // The test still holds the request: the complete answer is its end.
  expect_nothing_reserved();
}

TEST_F(AdmissionAtTheFront, WhatAnEngineStillHasStaysReservedWhenTheClientLeaves) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  http.hang_up();
  EXPECT_TRUE(eventually([&] { return request->cancelled.load(); }));
  EXPECT_TRUE(eventually([&] { return server->http_reading().connections == 0; }));
  EXPECT_EQ(admission->reading().requests, 1U);
  request->listener->on_error(make_error(Code::kCancelled, "cancelled"));
  request.reset();
  expect_nothing_reserved();
}

// Each byte comes in time, the body does not: what is set aside for it must not be had for that.
TEST_F(AdmissionAtTheFront, AByteNowAndThenDoesNotHoldTheMemoryOfABody) {
  options.body_timeout = milliseconds(200);
  start();
  HttpClient http = client();
  http.send(head(1000));
  ASSERT_TRUE(eventually([&] { return admission->reading().requests == 1; }));
  int sent = 0;
  for (; sent < 100 && admission->reading().requests == 1; ++sent) {
    http.send(" ");
    std::this_thread::sleep_for(milliseconds(20));  // the timers are the kernel's, not the Clock's
  }
  EXPECT_LT(sent, 100);
  EXPECT_EQ(http.read_reply().status, 408);
  expect_nothing_reserved();
}

TEST_F(AdmissionAtTheFront, ADeadlineThatPassesDuringTheUploadRefusesThen) {
  HttpClient http = client();
  http.send(head(1000, "x-weir-timeout-ms: 30\r\n") + "{");
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(error_field(reply, "code"), "deadline");
  EXPECT_EQ(refusals(admit::Stage::kBody, model::RefusalReason::kDeadline), 1U);
  expect_nothing_reserved();
}

TEST_F(AdmissionAtTheFront, AStormOfAbortedUploadsLeavesNothingBehind) {
  std::mt19937 random(5);
  admission_options.memory_bytes = 8 << 20;
  start();
  const std::string body = R"({"prompt":")" + std::string(60'000, 'x') + "\"}";
  for (int i = 0; i < 300; ++i) {
    HttpClient http = client();
    const std::string all = head(body.size()) + body;
    http.send(all.substr(0, random() % (all.size() + 1)));
    if (random() % 3 == 0) http.finish_sending();
  }
  EXPECT_TRUE(eventually([&] { return server->http_reading().connections == 0; }));
  while (executor.pending() > 0) {
    const auto [name, request] = executor.next();
    EXPECT_TRUE(eventually([&] { return request->cancelled.load(); }));
  }
  expect_nothing_reserved();
  EXPECT_EQ(server->http_reading().requests_in_flight, 0U);
}

TEST_F(AdmissionAtTheFront, AResetIsNoticedBehindManyBytesSentAhead) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  http.send(std::string(100 * 1024, 'x'));  // more than is read ahead
  http.reset();
  EXPECT_TRUE(eventually([&] { return request->cancelled.load(); }));
}

TEST_F(AdmissionAtTheFront, RefusalsAreLoggedOnceInAWhile) {
  RefusalLog log;
  const TimePoint start_time{std::chrono::hours(1)};
  EXPECT_EQ(log.note(RefusalReason::kMemory, start_time), 1U);
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(log.note(RefusalReason::kMemory, start_time + milliseconds(i)), std::nullopt);
  }
  EXPECT_EQ(log.note(RefusalReason::kQueueFull, start_time + seconds(1)), 1U);
  EXPECT_EQ(log.note(RefusalReason::kMemory, start_time + seconds(10)), 501U);
}

TEST_F(AdmissionAtTheFront, MetricsTellWhatIsSetAside) {
  HttpClient holder = client();
  holder.send(head(1000, "x-weir-tenant: acme\r\n"));
  ASSERT_TRUE(eventually([&] { return admission->reading().requests == 1; }));
  const std::string body = client().get("/metrics").body;
  EXPECT_NE(body.find("\nweir_admission_requests 1\n"), std::string::npos);
  EXPECT_NE(body.find("\nweir_admission_reserved_bytes " +
                      std::to_string(1000 * admit::kBodyFactor + admit::kAnswerBytes) + "\n"),
            std::string::npos);
  EXPECT_NE(body.find("\nweir_tenant_requests{tenant=\"acme\"} 1\n"), std::string::npos);
}

}  // namespace
}  // namespace weir::serve
