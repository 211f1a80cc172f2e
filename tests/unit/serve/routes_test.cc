// SPDX-License-Identifier: Apache-2.0
//
// Every route's success, and the rules that hold for all of them.
#include "agent/base/build_info.h"
#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using model::Completion;
using model::FinishReason;
using std::chrono::milliseconds;

class Routes : public ServeTest {
 protected:
  static Completion completion() {
    return {FinishReason::kStop,
            {3, 2},
            milliseconds(1),
            std::chrono::microseconds(20500),
            milliseconds(50)};
  }
};

TEST_F(Routes, InferAnswersWithResultUsageAndTimings) {
  HttpClient http = client();
  http.send_post("/infer",
                 R"({"model":"tiny","prompt":"Once","max_tokens":7,"priority":2,"seed":5,)"
                 R"("temperature":0,"stop":["a","b"],"deadline_ms":250})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(name, "tiny");
  EXPECT_EQ(request->prompt, "Once");
  EXPECT_EQ(request->max_tokens, 7U);
  EXPECT_EQ(request->priority, 2);
  EXPECT_EQ(request->sampling.seed, 5U);
  EXPECT_EQ(request->sampling.temperature, 0.0F);
  EXPECT_EQ(request->stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(request->deadline, clock.now() + milliseconds(250));
  request->listener->on_text(" upon");
  request->listener->on_text(" a \"time\"");
  request->listener->on_complete(completion());

  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.header("Content-Type"), "application/json");
  EXPECT_EQ(reply.body,
            "{\"id\":\"" + request->id +
                R"(","model":"tiny","result":" upon a \"time\"","finish_reason":"stop",)"
                R"("usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},)"
                R"("timings":{"queued_ms":1,"first_token_ms":20.5,"total_ms":50}})");
}

TEST_F(Routes, InferNeedsNoModelWhenThereIsOne) {
  HttpClient http = client();
  http.send_post("/infer", R"({"prompt":"x"})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(name, "tiny");
  EXPECT_EQ(request->max_tokens, 128U);
  request->listener->on_complete(completion());
  EXPECT_EQ(http.read_reply().status, 200);
}

TEST_F(Routes, CompletionHasTheShapeOfOpenAi) {
  HttpClient http = client();
  http.send_post("/v1/completions", R"({"model":"tiny","prompt":["Once"],"user":"u","n":1})");
  const auto [name, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(request->prompt, "Once");
  EXPECT_EQ(request->max_tokens, 16U);
  request->listener->on_text(" upon");
  request->listener->on_complete({FinishReason::kLength, {3, 16}, {}, {}, {}});
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 200);
  const auto created = boost::json::parse(reply.body).at("created").as_int64();
  EXPECT_GT(created, 1700000000);
  EXPECT_TRUE(request->id.starts_with("cmpl-"));
  EXPECT_EQ(reply.body,
            "{\"id\":\"" + request->id + R"(","object":"text_completion","created":)" +
                std::to_string(created) +
                R"(,"model":"tiny","choices":[{"text":" upon","index":0,"logprobs":null,)"
                R"("finish_reason":"length"}],)"
                R"("usage":{"prompt_tokens":3,"completion_tokens":16,"total_tokens":19}})");
}

TEST_F(Routes, ModelsAreListedAsOpenAiDoes) {
  executor.set_models({model_named("a.b", State::kUnloaded), model_named("c", State::kReady)});
  HttpClient http = client();
  const std::string first =
      R"({"id":"a.b","object":"model","created":1700000000,"owned_by":"weir","state":"unloaded",)"
      R"("executor":"llama","task":"generate"})";
  const HttpReply list = http.get("/v1/models");
  EXPECT_EQ(list.status, 200);
  EXPECT_TRUE(list.body.starts_with(R"({"object":"list","data":[)" + first + ",")) << list.body;
  const HttpReply one = http.get("/v1/models/a%2Eb?x=1");
  EXPECT_EQ(one.status, 200);
  EXPECT_EQ(one.body, first);
  const HttpReply none = http.get("/v1/models/d");
  EXPECT_EQ(none.status, 404);
  EXPECT_EQ(error_field(none, "code"), "model_not_found");
  EXPECT_EQ(error_field(none, "message"), "there is no model \"d\"; configured: a.b, c");
}

TEST_F(Routes, HealthIsAliveWhateverTheModelsDo) {
  executor.set_models({model_named("m", State::kFailed)});
  HttpClient http = client();
  const HttpReply reply = http.get("/healthz");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, "ok\n");
}

TEST_F(Routes, ReadinessFollowsTheModels) {
  HttpClient http = client();
  EXPECT_EQ(http.get("/readyz").status, 200);
  executor.set_models({model_named("m", State::kUnloaded)});
  EXPECT_EQ(http.get("/readyz").status, 200);
  executor.set_models({});
  EXPECT_EQ(http.get("/readyz").status, 200);
  executor.set_models({model_named("m", State::kLoading)});
  HttpReply reply = http.get("/readyz");
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(error_field(reply, "code"), "loading");
  auto failed = model_named("m", State::kFailed);
  failed.failure = "bad magic";
  executor.set_models({model_named("good", State::kReady), failed});
  reply = http.get("/readyz");
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(error_field(reply, "code"), "model_failed");
  EXPECT_EQ(error_field(reply, "message"), "model m failed: bad magic");
}

TEST_F(Routes, IndexTellsWhatThereIs) {
  HttpClient http = client();
  const HttpReply reply = http.get("/");
  EXPECT_EQ(reply.status, 200);
  EXPECT_NE(reply.body.find("POST /v1/completions"), std::string::npos);
  EXPECT_NE(reply.body.find("model tiny: ready"), std::string::npos);
}

TEST_F(Routes, MetricsCountRequestsByRouteAndStatus) {
  auto snapshot = std::make_shared<kernel::Snapshot>();
  snapshot->stats[WEIR_STAT_STEERED] = 9;
  metrics.snapshot = snapshot;
  HttpClient http = client();
  http.get("/healthz");
  http.get("/nowhere");
  HttpClient second = client();
  second.get("/healthz");
  const HttpReply reply = second.get("/metrics");
  EXPECT_EQ(reply.header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
  for (const std::string& line :
       std::vector<std::string>{"weir_build_info{build_id=\"" + std::string(build_id()) + "\"} 1\n",
                                "weir_http_requests_total{path=\"/healthz\",code=\"200\"} 2\n",
                                "weir_http_requests_total{path=\"other\",code=\"404\"} 1\n",
                                "weir_http_request_duration_seconds_count{path=\"/healthz\"} 2\n",
                                "weir_http_requests_in_flight 1\n", "weir_http_connections 2\n",
                                "weir_kernel_events_total{event=\"steered\"} 9\n"}) {
    EXPECT_NE(reply.body.find("\n" + line), std::string::npos) << line;
  }
}

TEST_F(Routes, HeadHasTheHeaderOfGetAndNoBody) {
  HttpClient http = client();
  http.send("HEAD /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
  const HttpReply reply = http.read_reply(true);
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.header("Content-Length"), "3");
  EXPECT_EQ(http.get("/healthz").body, "ok\n");  // nothing of a body came in between
}

TEST_F(Routes, WrongMethodNamesTheRightOnes) {
  HttpClient http = client();
  http.send("DELETE /metrics HTTP/1.1\r\nHost: t\r\n\r\n");
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 405);
  EXPECT_EQ(reply.header("Allow"), "GET, HEAD");
  EXPECT_EQ(error_field(reply, "code"), "method_not_allowed");
  const HttpReply get = http.get("/infer");
  EXPECT_EQ(get.status, 405);
  EXPECT_EQ(get.header("Allow"), "POST");
  EXPECT_EQ(http.get("/nowhere").header("Allow"), "");
}

TEST_F(Routes, UnknownPathListsWhatExists) {
  HttpClient http = client();
  const HttpReply reply = http.post("/v1/chat/completions", "{}");
  EXPECT_EQ(reply.status, 404);
  EXPECT_EQ(error_field(reply, "type"), "not_found_error");
  EXPECT_EQ(error_field(reply, "code"), "unknown_url");
  EXPECT_EQ(error_field(reply, "param"), "null");
  EXPECT_EQ(error_field(reply, "message"),
            "there is no POST /v1/chat/completions; there is: GET /, GET /healthz, GET /readyz, "
            "GET /metrics, GET /v1/models, GET /v1/models/{id}, POST /infer, "
            "POST /v1/completions, POST /v1/embeddings, POST /v1/rerank");
}

TEST_F(Routes, StrangeBytesOfThePathAreNotRepeated) {
  HttpClient http = client();
  const HttpReply reply = http.get("/%ff%0a\"");
  EXPECT_EQ(reply.status, 404);
  EXPECT_TRUE(error_field(reply, "message").starts_with("there is no GET /??\"; there is: "))
      << reply.body;
}

TEST_F(Routes, RequestIdIsEchoedOrMade) {
  HttpClient http = client();
  http.send("GET /healthz HTTP/1.1\r\nHost: t\r\nX-Request-Id: abc-1\r\n\r\n");
  EXPECT_EQ(http.read_reply().header("x-request-id"), "abc-1");
  const std::string made = http.get("/healthz").header("x-request-id");
  EXPECT_EQ(made.size(), 36U);
  EXPECT_TRUE(made.starts_with("req-"));
  EXPECT_NE(made, http.get("/healthz").header("x-request-id"));
}

}  // namespace
}  // namespace weir::serve
