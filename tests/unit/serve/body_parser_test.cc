// SPDX-License-Identifier: Apache-2.0
//
// Large bodies are parsed by the worker pool. Its only worker is kept busy until a test lets it go:
// what goes on meanwhile did not wait for it.
#include "agent/serve/body_parser.h"

#include <future>
#include <string>

#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

class BodyParser : public ServeTest {
 protected:
  void SetUp() override {
    auto created = schedule::WorkerPool::create({});
    ASSERT_TRUE(created.ok()) << created.error().message;
    pool_ = *std::move(created);
    workers = pool_.get();
    options.io_threads = 1;
    start();
    ASSERT_EQ(pool_->submit([held = release_.get_future().share()] { held.wait(); }),
              schedule::WorkerPool::Submitted::kAccepted);
  }
  void TearDown() override {
    let_go();
    server.reset();
    pool_.reset();
  }

  void let_go() {
    if (!std::exchange(gone_, true)) release_.set_value();
  }
  [[nodiscard]] bool handed_over(std::uint64_t bodies) const {
    return eventually([&] { return pool_->read().injected == 1 + bodies; });
  }
  static std::string body_of(std::size_t prompt_bytes) {
    return R"({"prompt":")" + std::string(prompt_bytes, 'a') + R"("})";
  }

  std::unique_ptr<schedule::WorkerPool> pool_;

 private:
  std::promise<void> release_;
  bool gone_ = false;
};

TEST_F(BodyParser, ALargeOneDoesNotHoldUpTheOthersOfItsThread) {
  HttpClient large = client();
  large.send_post("/infer", body_of(200'000));
  ASSERT_TRUE(handed_over(1));
  HttpClient other = client();
  EXPECT_EQ(other.get("/healthz").status, 200);
  other.send_post("/infer", body_of(5));
  const auto [small_model, small] = executor.next();
  ASSERT_NE(small, nullptr);
  EXPECT_EQ(small->prompt.size(), 5U);

  let_go();
  const auto [model, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(request->prompt, std::string(200'000, 'a'));
  request->listener->on_text("end");
  request->listener->on_complete({});
  EXPECT_EQ(large.read_reply().status, 200);
  EXPECT_EQ(pool_->read().injected, 2U) << "the small one was not worth it";
}

TEST_F(BodyParser, NothingIsStartedForAClientThatLeftMeanwhile) {
  HttpClient large = client();
  large.send_post("/v1/completions", body_of(200'000));
  ASSERT_TRUE(handed_over(1));
  large.hang_up();
  ASSERT_TRUE(eventually([&] { return server->http_reading().connections == 0; }));
  EXPECT_EQ(admission->reading().requests, 1U) << "its body is still in memory";
  let_go();
  EXPECT_TRUE(eventually([&] {
    return admission->reading().requests == 0 && admission->reading().reserved_bytes == 0;
  }));
  EXPECT_EQ(executor.submissions(), 0U);
}

TEST_F(BodyParser, WhatIsWrongIsAnsweredTheSame) {
  HttpClient http = client();
  http.send_post("/infer", body_of(200'000) + "}");
  ASSERT_TRUE(handed_over(1));
  let_go();
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(error_field(reply, "code"), "invalid_json");
}

TEST_F(BodyParser, IsTheIoThreadWhenThePoolHasStopped) {
  let_go();
  pool_->stop();
  HttpClient http = client();
  http.send_post("/infer", body_of(200'000));
  const auto [model, request] = executor.next();
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(request->prompt.size(), 200'000U);
}

}  // namespace
}  // namespace weir::serve
