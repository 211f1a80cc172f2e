// SPDX-License-Identifier: Apache-2.0
//
// POST /v1/embeddings and /v1/rerank: bodies in and out, and which model they may name.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "agent/serve/embeddings_json.h"
#include "tests/unit/serve/serve_fixture.h"

namespace weir::serve {
namespace {

using model::EmbeddingInput;
using std::chrono::milliseconds;

/// The bytes that RFC 4648 says the text stands for; by another way than the encoder's.
std::string decoded(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  std::uint32_t bits = 0;
  int held = 0;
  for (const char c : text) {
    if (c == '=') break;
    bits = bits << 6U | static_cast<std::uint32_t>(digits.find(c));
    held += 6;
    if (held >= 8) {
      held -= 8;
      bytes += static_cast<char>(static_cast<unsigned char>(bits >> static_cast<unsigned>(held)));
    }
  }
  return bytes;
}

TEST(Base64, HasTheBytesOfTheFloatsForEveryLength) {
  for (std::size_t size = 0; size < 8; ++size) {
    std::vector<float> values;
    for (std::size_t i = 0; i < size; ++i)
      values.push_back(1.5F / static_cast<float>(i + 3) - 0.2F);
    const std::string text = base64_of(values);
    EXPECT_EQ(text.size() % 4, 0U);
    const std::string bytes = decoded(text);
    ASSERT_EQ(bytes.size(), size * sizeof(float));
    std::vector<float> back(size);
    if (size > 0) std::memcpy(back.data(), bytes.data(), bytes.size());
    EXPECT_EQ(back, values);
  }
  EXPECT_EQ(base64_of(std::vector<float>{1.0F}), "AACAPw==");
}

/// `what` is the field and what is said of it.
void expect_rejected(const std::string& body, const std::string& param, const std::string& what) {
  const auto outcome = parse_embeddings(body, TimePoint{});
  const auto* error = std::get_if<ApiError>(&outcome);
  ASSERT_NE(error, nullptr) << body;
  EXPECT_EQ(error->status, 400U);
  EXPECT_EQ(error->param.value_or(""), param) << body;
  EXPECT_NE(error->message.find(what), std::string::npos) << error->message;
}

TEST(EmbeddingsJson, RejectsWithFieldAndWhatWouldBeRight) {
  expect_rejected(R"({})", "input", "is required");
  expect_rejected(R"({"input":""})", "input", "must not be empty");
  expect_rejected(R"({"input":[]})", "input", "must not be empty");
  expect_rejected(R"({"input":{}})", "input", "must be a string");
  expect_rejected(R"({"input":["a",""]})", "input", "input[1] is neither");
  expect_rejected(R"({"input":["a",3]})", "input", "input[1] is neither");
  expect_rejected(R"({"input":[3,"a"]})", "input", "no 32-bit integer");
  expect_rejected(R"({"input":[3000000000]})", "input", "no 32-bit integer");
  expect_rejected(R"({"input":[[]]})", "input", "input[0] is neither");
  expect_rejected(R"({"input":[[1.5]]})", "input", "input[0] is neither");
  expect_rejected(R"({"input":"a","dimensions":0})", "dimensions", "an integer in 1..");
  expect_rejected(R"({"input":"a","encoding_format":"hex"})", "encoding_format",
                  "\"float\" or \"base64\", not \"hex\"");
  std::string many = R"({"input":["a")";
  for (int i = 0; i < 2048; ++i) many += R"(,"a")";
  expect_rejected(many + "]}", "input", "at most 2048 texts, not 2049");
}

TEST(EmbeddingsJson, TakesTextsAndTokensInEveryForm) {
  const auto texts_of = [](const std::string& body) {
    const auto outcome = parse_embeddings(body, TimePoint{});
    EXPECT_TRUE(std::holds_alternative<EmbeddingsCall>(outcome)) << body;
    return std::get<EmbeddingsCall>(outcome).request->embedding->texts;
  };
  using Texts = std::vector<EmbeddingInput::Text>;
  EXPECT_EQ(texts_of(R"({"input":"a b"})"), (Texts{"a b"}));
  EXPECT_EQ(texts_of(R"({"input":["a","b"]})"), (Texts{"a", "b"}));
  EXPECT_EQ(texts_of(R"({"input":[1,2]})"), (Texts{EmbeddingInput::Tokens{1, 2}}));
  EXPECT_EQ(texts_of(R"({"input":[[1],[2,3]]})"),
            (Texts{EmbeddingInput::Tokens{1}, EmbeddingInput::Tokens{2, 3}}));
}

class EmbeddingRoutes : public ServeTest {
 protected:
  void SetUp() override {
    model::ModelInfo embeds = model_named("bert", State::kReady);
    embeds.task = model::Task::kEmbed;
    model::ModelInfo scores = model_named("rank", State::kReady);
    scores.task = model::Task::kScore;
    executor.set_models({model_named("tiny", State::kReady), embeds, scores});
    ServeTest::SetUp();
  }
  /// The request as it was submitted, answered with these.
  std::shared_ptr<model::GenerationRequest> answer(const std::vector<float>& values,
                                                   std::uint32_t tokens = 5) {
    auto request = executor.next().request;
    if (request == nullptr) return request;
    request->listener->on_vectors(values);
    model::Completion completion;
    completion.usage.prompt_tokens = tokens;
    request->listener->on_complete(completion);
    return request;
  }
};

TEST_F(EmbeddingRoutes, EmbeddingsHaveTheShapeOfOpenAi) {
  HttpClient http = client();
  http.send_post("/v1/embeddings",
                 R"({"input":["one","two"],"user":"u","priority":1,"deadline_ms":70})");
  const auto request = answer({0.6F, 0.8F, 0, -1});
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(request->route, "/v1/embeddings");
  EXPECT_EQ(request->priority, 1);
  EXPECT_EQ(request->deadline, clock.now() + milliseconds(70));
  EXPECT_EQ(request->max_tokens, 0U);
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body,
            R"({"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.6,0.8]},)"
            R"({"object":"embedding","index":1,"embedding":[0,-1]}],"model":"bert",)"
            R"("usage":{"prompt_tokens":5,"total_tokens":5}})");
}

TEST_F(EmbeddingRoutes, Base64IsWhatTheFloatsAre) {
  HttpClient http = client();
  http.send_post("/v1/embeddings", R"({"input":"one","encoding_format":"base64"})");
  const std::vector<float> values = {0.6F, 0.8F, -1.25F};
  ASSERT_NE(answer(values), nullptr);
  const auto reply = boost::json::parse(http.read_reply().body);
  const std::string bytes(decoded(std::string(reply.at("data").at(0).at("embedding").as_string())));
  ASSERT_EQ(bytes.size(), values.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(bytes.data(), values.data(), bytes.size()), 0);
}

TEST_F(EmbeddingRoutes, DimensionsShortenAndScaleToUnitLength) {
  HttpClient http = client();
  http.send_post("/v1/embeddings", R"({"input":"one","dimensions":2})");
  ASSERT_NE(answer({0.3F, 0.4F, std::sqrt(0.75F)}), nullptr);
  const auto reply = boost::json::parse(http.read_reply().body);
  const auto& vector = reply.at("data").at(0).at("embedding").as_array();
  ASSERT_EQ(vector.size(), 2U);
  EXPECT_NEAR(vector[0].to_number<double>(), 0.6, 1e-6);
  EXPECT_NEAR(vector[1].to_number<double>(), 0.8, 1e-6);
  http.send_post("/v1/embeddings", R"({"input":"one","dimensions":4})");
  ASSERT_NE(answer({0.3F, 0.4F, std::sqrt(0.75F)}), nullptr);
  const HttpReply refused = http.read_reply();
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(error_field(refused, "param"), "dimensions");
  EXPECT_EQ(error_field(refused, "message"),
            "\"dimensions\" must be an integer in 1..3, which is what this model computes, not 4");
}

TEST_F(EmbeddingRoutes, RerankTellsDocumentsByFallingScore) {
  HttpClient http = client();
  http.send_post("/v1/rerank", R"({"query":"q","documents":["a",{"text":"b"},"c"],"top_n":2,)"
                               R"("return_documents":true})");
  const auto request = answer({0.5F, 2.5F, -1});
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(request->embedding->query, "q");
  const HttpReply reply = http.read_reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body,
            "{\"id\":\"" + request->id +
                R"(","model":"rank","object":"list","usage":{"prompt_tokens":5,"total_tokens":5},)"
                R"("results":[{"index":1,"relevance_score":2.5,"document":{"text":"b"}},)"
                R"({"index":0,"relevance_score":0.5,"document":{"text":"a"}}]})");
  for (const auto& [body, param] : std::vector<std::pair<std::string, std::string>>{
           {R"({"documents":["a"]})", "query"},
           {R"({"query":"q"})", "documents"},
           {R"({"query":"q","documents":[]})", "documents"},
           {R"({"query":"q","documents":["a",""]})", "documents"},
           {R"({"query":"q","documents":[{"txt":"a"}]})", "documents"},
           {R"({"query":"q","documents":["a"],"top_n":0})", "top_n"}}) {
    const HttpReply refused = http.post("/v1/rerank", body);
    EXPECT_EQ(refused.status, 400) << body;
    EXPECT_EQ(error_field(refused, "param"), param) << body;
  }
}

TEST_F(EmbeddingRoutes, ModelOfAnotherKindIsRefusedWithTheRouteItHas) {
  HttpClient http = client();
  const auto message = [&](const std::string& path, const std::string& body) {
    const HttpReply reply = http.post(path, body);
    EXPECT_EQ(reply.status, 400);
    EXPECT_EQ(error_field(reply, "code"), "wrong_task");
    EXPECT_EQ(error_field(reply, "param"), "model");
    return error_field(reply, "message");
  };
  EXPECT_EQ(message("/v1/embeddings", R"({"model":"tiny","input":"x"})"),
            "model \"tiny\" generates text: POST /v1/completions, /infer");
  EXPECT_EQ(message("/v1/embeddings", R"({"model":"rank","input":"x"})"),
            "model \"rank\" scores documents against a query: POST /v1/rerank");
  EXPECT_EQ(message("/v1/completions", R"({"model":"bert","prompt":"x"})"),
            "model \"bert\" embeds texts: POST /v1/embeddings");
  EXPECT_EQ(message("/v1/rerank", R"({"model":"bert","query":"x","documents":["y"]})"),
            "model \"bert\" embeds texts: POST /v1/embeddings");
  EXPECT_EQ(executor.submissions(), 0U);
}

TEST_F(EmbeddingRoutes, ErrorsAreThoseOfCompletions) {
  HttpClient http = client();
  http.send_post("/v1/embeddings", R"({"input":"x"})");
  auto request = executor.next().request;
  ASSERT_NE(request, nullptr);
  request->listener->on_error(make_error(Code::kInvalidArgument, "input[0] has 700 tokens"));
  const HttpReply bad = http.read_reply();
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(error_field(bad, "param"), "input");
  executor.refuse_with(
      model::Refusal{model::RefusalReason::kQueueFull, "full", std::chrono::seconds(3)});
  const HttpReply full = http.post("/v1/embeddings", R"({"input":"x"})");
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(full.header("Retry-After"), "3");
  EXPECT_EQ(error_field(full, "code"), "queue_full");
}

TEST_F(EmbeddingRoutes, ClientThatLeavesCancels) {
  std::shared_ptr<model::GenerationRequest> request;
  {
    HttpClient http = client();
    http.send_post("/v1/embeddings", R"({"input":["x","y"]})");
    request = executor.next().request;
    ASSERT_NE(request, nullptr);
    EXPECT_FALSE(request->cancelled.load());
  }
  EXPECT_TRUE(eventually([&] { return request->cancelled.load(); }));
  request->listener->on_error(make_error(Code::kCancelled, "gone"));
}

}  // namespace
}  // namespace weir::serve
