// SPDX-License-Identifier: Apache-2.0
//
// Listing, loading and unloading models over HTTP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

/// Keeps what it was asked for until the test says what became of it.
class ScriptedAdmin final : public model::ModelAdmin {
 public:
  void rescan(Done done) override { done(scanned); }
  void load(std::string name, Done done) override { ask("load " + name, std::move(done)); }
  void unload(std::string name, Done done) override { ask("unload " + name, std::move(done)); }

  /// What came next, and the function to answer it with; empty after five seconds.
  std::pair<std::string, Done> next() {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, std::chrono::seconds(5), [this] { return !asked_.empty(); })) {
      return {};
    }
    auto first = std::move(asked_.front());
    asked_.pop_front();
    return first;
  }

  Status scanned;

 private:
  void ask(std::string what, Done done) {
    const std::lock_guard lock(mutex_);
    asked_.emplace_back(std::move(what), std::move(done));
    arrived_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::pair<std::string, Done>> asked_;
};

class Repository : public ServeTest {
 protected:
  void SetUp() override { start_with_admin(); }
  void start_with_admin() {
    options.listen = *Endpoint::parse("127.0.0.1:0", true);
    options.io_threads = 1;  // a handler that blocked would be noticed
    server.reset();
    if (admission) earlier.push_back(std::move(admission));
    admission = *admit::Admission::create(admission_options, clock);
    auto created = HttpServer::create(options, executor, *admission, metrics, clock, &admin);
    ASSERT_TRUE(created.ok()) << created.error().message;
    server = *std::move(created);
  }
  ScriptedAdmin admin;
};

TEST_F(Repository, IndexListsModelsAsTritonDoes) {
  auto failed = model_named("bad", State::kFailed);
  failed.failure = "torn";
  auto disabled = model_named("off", State::kUnloaded);
  disabled.disabled = true;
  executor.set_models({model_named("a", State::kReady), model_named("b", State::kWarming), failed,
                       disabled, model_named("d", State::kDraining)});
  HttpClient http = client();
  const HttpReply reply = http.post("/v2/repository/index", "");
  ASSERT_EQ(reply.status, 200) << reply.body;
  const auto entries = boost::json::parse(reply.body).as_array();
  std::vector<std::string> said;
  for (const auto& entry : entries) {
    const auto& object = entry.as_object();
    said.push_back(std::string(object.at("name").as_string()) + " " +
                   std::string(object.at("state").as_string()) + " " +
                   std::string(object.at("reason").as_string()));
  }
  EXPECT_THAT(said, testing::ElementsAre("a READY ", "b LOADING ", "bad UNAVAILABLE torn",
                                         "off UNAVAILABLE unloaded", "d UNLOADING "));
  EXPECT_EQ(entries[1].at("weir").at("state").as_string(), "warming");
  const HttpReply ready = http.post("/v2/repository/index", R"({"ready":true})");
  EXPECT_EQ(boost::json::parse(ready.body).as_array().size(), 1U);
  EXPECT_EQ(http.post("/v2/repository/index", R"({"ready":1})").status, 400);
  EXPECT_EQ(http.post("/v2/repository/index", "[").status, 400);
}

TEST_F(Repository, IndexTellsTheMemoryOfWhatIsLoaded) {
  auto loaded = model_named("a", State::kReady);
  loaded.memory = {.mapped_bytes = 10,
                   .resident_bytes = 9,
                   .copied_bytes = 1,
                   .kv_bytes = 2,
                   .compute_bytes = 3,
                   .output_bytes = 4};
  auto unknown = loaded;
  unknown.memory.resident_bytes.reset();
  executor.set_models({loaded, unknown, model_named("u", State::kUnloaded)});
  HttpClient http = client();
  const auto entries = boost::json::parse(http.post("/v2/repository/index", "").body).as_array();
  const auto memory = [&](std::size_t i) { return entries[i].at("weir").at("memory"); };
  EXPECT_EQ(memory(0), boost::json::parse(R"({"mapped_bytes":10,"resident_bytes":9,
      "copied_bytes":1,"kv_bytes":2,"compute_bytes":3,"output_bytes":4})"));
  EXPECT_FALSE(memory(1).as_object().contains("resident_bytes"));
  EXPECT_EQ(memory(2), boost::json::object());
}

TEST_F(Repository, IndexSaysWhyTheFolderCannotBeRead) {
  admin.scanned = os_error(ENOENT, "/models");
  HttpClient http = client();
  const HttpReply reply = http.post("/v2/repository/index", "{}");
  EXPECT_EQ(reply.status, 500);
  EXPECT_EQ(error_field(reply, "message"), "/models: No such file or directory");
}

TEST_F(Repository, LoadAnswersWhenItIsDoneAndHoldsUpNobody) {
  HttpClient waits = client();
  waits.send_post("/v2/repository/models/tiny.v1/load", "{}");
  auto [asked, done] = admin.next();
  EXPECT_EQ(asked, "load tiny.v1");
  HttpClient other = client();
  EXPECT_EQ(other.get("/healthz").status, 200);
  done({});
  const HttpReply reply = waits.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, "{}");
}

TEST_F(Repository, FailuresAreErrorsWithTheReason) {
  struct Case {
    Error error;
    unsigned status;
  };
  for (const Case& one :
       {Case{make_error(Code::kNotFound, "there is no model \"x\""), 404},
        Case{make_error(Code::kInvalidArgument, "x.gguf: not a GGUF file"), 400},
        Case{make_error(Code::kResourceExhausted, "it needs 5 bytes"), 429},
        Case{make_error(Code::kUnavailable, "the model was unloaded meanwhile"), 503}}) {
    HttpClient http = client();
    http.send_post("/v2/repository/models/x/load", "{}");
    auto [asked, done] = admin.next();
    ASSERT_EQ(asked, "load x");
    done(one.error);
    const HttpReply reply = http.read_reply();
    EXPECT_EQ(reply.status, one.status);
    EXPECT_EQ(error_field(reply, "message"), one.error.message);
  }
  HttpClient http = client();
  http.send_post("/v2/repository/models/x/unload", "{}");
  auto [asked, done] = admin.next();
  EXPECT_EQ(asked, "unload x");
  done({});
  EXPECT_EQ(http.read_reply().status, 200);
}

TEST_F(Repository, DroppedOperationIsAnsweredAndLateAnswersAreHarmless) {
  HttpClient http = client();
  http.send_post("/v2/repository/models/x/load", "{}");
  auto first = admin.next();
  first.second = nullptr;  // the registry went first
  EXPECT_EQ(http.read_reply().status, 500);
  http.send_post("/v2/repository/models/x/load", "{}");
  auto second = admin.next();
  server.reset();
  second.second({});
}

TEST_F(Repository, OthersAreForbidden) {
  HttpClient http = client();
  const HttpReply page =
      http.post("/v2/repository/models/x/unload", "{}", "Origin: http://example.com\r\n");
  EXPECT_EQ(page.status, 403);
  EXPECT_EQ(error_field(page, "code"), "forbidden");
  options.admin_api = AdminApi::kNobody;
  start_with_admin();
  HttpClient again = client();
  const HttpReply reply = again.post("/v2/repository/index", "{}");
  EXPECT_EQ(reply.status, 403);
  EXPECT_EQ(error_field(reply, "message"), "serve.admin_api is nobody");
}

TEST_F(Repository, PathsAreStrict) {
  HttpClient http = client();
  EXPECT_EQ(http.get("/v2/repository/models/x/load").status, 405);
  EXPECT_EQ(http.post("/v2/repository/models/x/y/load", "{}").status, 404);
  EXPECT_EQ(http.post("/v2/repository/models//load", "{}").status, 404);
}

TEST_F(ServeTest, WithoutAnAdminThereAreNoSuchRoutes) {
  HttpClient http = client();
  EXPECT_EQ(http.post("/v2/repository/index", "{}").status, 404);
}

}  // namespace
}  // namespace weir::serve
