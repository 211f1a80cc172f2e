// SPDX-License-Identifier: Apache-2.0
//
// Embedding and scoring through the registry, with small models of random weights.
#include "agent/model/embedding_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/model/registry.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/fixtures/synthetic_bert.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;
using State = ModelInfo::State;

/// Keeps what it hears.
class VectorsListener final : public Listener {
 public:
  void on_text(std::string_view /*text*/) override { ADD_FAILURE() << "text, not vectors"; }
  void on_vectors(std::span<const float> values) override {
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(values_.empty());
    values_.assign(values.begin(), values.end());
  }
  void on_complete(const Completion& completion) override {
    const std::lock_guard lock(mutex_);
    ++ends_;
    usage_ = completion.usage;
    changed_.notify_all();
  }
  void on_error(const Error& error) override {
    const std::lock_guard lock(mutex_);
    ++ends_;
    error_ = error;
    changed_.notify_all();
  }
  /// False after 60 s.
  bool wait_end() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, seconds(60), [this] { return ends_ > 0; });
  }
  std::vector<float> values() const { return copy(values_); }
  Usage usage() const { return copy(usage_); }
  std::optional<Error> error() const { return copy(error_); }
  int ends() const { return copy(ends_); }

 private:
  template <typename T>
  T copy(const T& guarded) const {
    const std::lock_guard lock(mutex_);
    return guarded;
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<float> values_;
  Usage usage_;
  std::optional<Error> error_;
  int ends_ = 0;
};

struct Asked {
  std::shared_ptr<GenerationRequest> request;
  std::shared_ptr<VectorsListener> heard;
};

Asked ask(EmbeddingInput input) {
  Asked asked{std::make_shared<GenerationRequest>(), std::make_shared<VectorsListener>()};
  asked.request->max_tokens = 0;
  asked.request->embedding = std::make_shared<EmbeddingInput>(std::move(input));
  asked.request->listener = asked.heard;
  return asked;
}

Asked ask(const std::vector<std::string>& texts, std::optional<std::string> query = {}) {
  EmbeddingInput input;
  input.texts.assign(texts.begin(), texts.end());
  input.query = std::move(query);
  return ask(std::move(input));
}

double cosine(std::span<const float> a, std::span<const float> b) {
  double dot = 0;
  double aa = 0;
  double bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    dot += double{a[i]} * double{b[i]};
    aa += double{a[i]} * double{a[i]};
    bb += double{b[i]} * double{b[i]};
  }
  return dot / std::sqrt(aa * bb);
}

std::vector<std::string> sentences(std::size_t count) {
  const std::vector<std::string> words = {"bird", "boat", "found", "friend", "garden", "little",
                                          "lost", "red",  "said",  "story",  "tree",   "with"};
  std::vector<std::string> all;
  for (std::size_t i = 0; i < count; ++i) {
    std::string text;
    for (std::size_t k = 0; k <= i % 17; ++k) text += words[(i * 5 + k * (i + 1)) % 12] + " ";
    all.push_back(text);
  }
  return all;
}

class Embedding : public testing::Test {
 protected:
  static void SetUpTestSuite() { bert = std::make_unique<SyntheticBert>("engine"); }
  static void TearDownTestSuite() { bert.reset(); }

  static ModelOptions embeds() {
    ModelOptions options;
    options.name = "bert";
    options.path = bert->file();
    options.task = Task::kEmbed;
    options.threads = 1;
    options.batch.mode = schedule::BatchMode::kLearned;
    return options;
  }
  static ModelOptions scores() {
    ModelOptions options = embeds();
    options.name = "rank";
    options.path = bert->file(LLAMA_POOLING_TYPE_RANK);
    options.task = Task::kScore;
    return options;
  }
  void make(std::vector<ModelOptions> models, RegistryOptions options = {}) {
    auto made = Registry::create(std::move(models), clock_, workers(), std::move(options));
    ASSERT_TRUE(made.ok()) << made.error().message;
    registry_ = std::move(*made);
  }
  ModelInfo info(const std::string& name = "bert") const {
    for (ModelInfo& info : registry_->models()) {
      if (info.name == name) return info;
    }
    return {};
  }
  void submit(const Asked& asked, const std::string& model = "bert") {
    const auto refusal = registry_->submit(model, asked.request);
    ASSERT_FALSE(refusal) << refusal->message;
  }
  std::vector<float> vectors_of(const std::vector<std::string>& texts,
                                const std::string& model = "bert",
                                std::optional<std::string> query = {}) {
    const Asked asked = ask(texts, std::move(query));
    submit(asked, model);
    EXPECT_TRUE(asked.heard->wait_end());
    EXPECT_FALSE(asked.heard->error()) << asked.heard->error()->message;
    return asked.heard->values();
  }
  std::string error_of(const Asked& asked, const std::string& model = "bert") {
    submit(asked, model);
    EXPECT_TRUE(asked.heard->wait_end());
    return asked.heard->error() ? asked.heard->error()->message : "no error";
  }

  static inline std::unique_ptr<SyntheticBert> bert;
  FakeClock clock_;
  std::unique_ptr<Registry> registry_;
};

TEST_F(Embedding, VectorsAreOfUnitLengthAndDifferByText) {
  make({embeds()});
  const auto values = vectors_of({"the red bird", "a story of a tree"});
  ASSERT_EQ(values.size(), 2 * SyntheticBert::kWidth);
  const std::span all(values);
  double square = 0;
  for (const float value : all.first(SyntheticBert::kWidth))
    square += double{value} * double{value};
  EXPECT_NEAR(square, 1, 1e-5);
  EXPECT_LT(cosine(all.first(SyntheticBert::kWidth), all.last(SyntheticBert::kWidth)), 0.999);
}

TEST_F(Embedding, TextHasTheSameVectorAloneAndAmongOthersInTheirOrder) {
  make({embeds()});
  const auto texts = sentences(70);
  const auto together = vectors_of(texts);
  ASSERT_EQ(together.size(), texts.size() * SyntheticBert::kWidth);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto alone = vectors_of({texts[i]});
    const auto among =
        std::span(together).subspan(i * SyntheticBert::kWidth, SyntheticBert::kWidth);
    EXPECT_GT(cosine(alone, among), 1 - 1e-4) << i;
  }
}

TEST_F(Embedding, TextsOfSeveralRequestsShareBatches) {
  ModelOptions options = embeds();
  options.batch.mode = schedule::BatchMode::kFixed;
  options.batch.timeout = seconds(3600);
  options.batch.preferred_batch_size = 4;
  make({options});
  vectors_of({"a", "b", "c", "d"});
  const Asked first = ask({"the bird", "the boat"});
  const Asked second = ask({"the tree", "the garden"});
  submit(first);
  submit(second);
  ASSERT_TRUE(first.heard->wait_end());
  ASSERT_TRUE(second.heard->wait_end());
  EXPECT_EQ(info().batches->members, 8U);
  EXPECT_EQ(info().batches->token_bound, std::nullopt);
  EXPECT_EQ(info().batches->by_cause[static_cast<std::size_t>(schedule::BatchCause::kPreferred)],
            2U);
  EXPECT_EQ(info().decode_steps, 2U);
  EXPECT_EQ(info().completed, 3U);
}

TEST_F(Embedding, BoundOfTokensIsToldWhileItIsLearnedAndAfterTheModelHasGone) {
  ModelOptions options = embeds();
  options.max_batch_tokens = 48;
  make({options});
  EXPECT_EQ(info().batches->token_bound, std::nullopt);
  vectors_of({"the bird"});
  EXPECT_EQ(info().batches->token_bound, 48U);  // of one batch nothing is learned yet
  std::promise<void> gone;
  registry_->unload("bert", [&](const Status&) { gone.set_value(); });
  gone.get_future().wait();
  EXPECT_EQ(info().batches->token_bound, 48U);
}

TEST_F(Embedding, SeveralInstancesGiveWhatOneGives) {
  ModelOptions one = embeds();
  ModelOptions three = embeds();
  three.name = "three";
  three.batch.instances = 3;
  three.batch.max_batch_size = three.batch.preferred_batch_size = 4;
  make({one, three});
  const auto texts = sentences(60);
  const auto expected = vectors_of(texts);
  std::vector<Asked> all;
  for (int i = 0; i < 12; ++i) all.push_back(ask(texts));
  for (const Asked& asked : all) submit(asked, "three");
  for (const Asked& asked : all) {
    ASSERT_TRUE(asked.heard->wait_end());
    const auto values = asked.heard->values();
    ASSERT_EQ(values.size(), expected.size());
    EXPECT_GT(cosine(values, expected), 1 - 1e-4);
    EXPECT_EQ(asked.heard->ends(), 1);
  }
  EXPECT_EQ(info("three").batches->members, 12 * texts.size());
}

TEST_F(Embedding, TokensStandForTheTextTheyAreOf) {
  make({embeds()});
  const auto text = vectors_of({"the"});
  EmbeddingInput input;
  // [CLS], a piece, [SEP]: the piece is found by asking for each.
  const Asked usage = ask({"the"});
  submit(usage);
  ASSERT_TRUE(usage.heard->wait_end());
  ASSERT_EQ(usage.heard->usage().prompt_tokens, 3U);
  for (std::int32_t piece = 5; piece < 1024; ++piece) {
    input.texts.emplace_back(EmbeddingInput::Tokens{2, piece, 3});
  }
  const Asked asked = ask(std::move(input));
  submit(asked);
  ASSERT_TRUE(asked.heard->wait_end());
  ASSERT_FALSE(asked.heard->error()) << asked.heard->error()->message;
  const auto values = asked.heard->values();
  int same = 0;
  for (std::size_t at = 0; at < values.size(); at += SyntheticBert::kWidth) {
    same += cosine(text, std::span(values).subspan(at, SyntheticBert::kWidth)) > 1 - 1e-6 ? 1 : 0;
  }
  EXPECT_EQ(same, 1);
}

TEST_F(Embedding, WhatTheModelCannotTakeIsAnErrorThatNamesTheText) {
  make({embeds()});
  std::string text;
  for (int i = 0; i < 130; ++i) text += "tree ";
  EXPECT_THAT(error_of(ask({"fine", text})),
              testing::MatchesRegex("input.1. has 1[0-9]+ tokens; this model takes at most 128"));
  EmbeddingInput tokens;
  tokens.texts.emplace_back(EmbeddingInput::Tokens{2, 1024, 3});
  EXPECT_THAT(error_of(ask(std::move(tokens))),
              HasSubstr("there is no token 1024: this model has 0..1023"));
  EXPECT_EQ(info().failed, 2U);
}

TEST_F(Embedding, ScoresEachDocumentAloneAsAmongOthers) {
  make({scores()});
  const auto documents = sentences(20);
  const auto together = vectors_of(documents, "rank", "where is the bird");
  ASSERT_EQ(together.size(), documents.size());
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const auto alone = vectors_of({documents[i]}, "rank", "where is the bird");
    ASSERT_EQ(alone.size(), 1U);
    EXPECT_NEAR(alone[0], together[i], 1e-3 * std::max(1.0F, std::abs(alone[0]))) << i;
  }
  EXPECT_NE(together[0], together[1]);
  EXPECT_NE(vectors_of({documents[0]}, "rank", "another question")[0], together[0]);
}

TEST_F(Embedding, FileOfAnotherKindIsRefusedWithTheTaskItHas) {
  ModelOptions no_pooling = shipped();
  no_pooling.task = Task::kEmbed;
  no_pooling.name = "a";
  ModelOptions ranks = scores();
  ranks.task = Task::kEmbed;
  ranks.name = "b";
  ModelOptions vectors = embeds();
  vectors.task = Task::kScore;
  vectors.name = "c";
  ModelOptions generates = embeds();
  generates.task = Task::kGenerate;
  generates.name = "d";
  make({no_pooling, ranks, vectors, generates});
  EXPECT_THAT(error_of(ask({"x"}), "a"), HasSubstr("the file has no pooling"));
  EXPECT_THAT(error_of(ask({"x"}), "b"), HasSubstr("task score"));
  EXPECT_THAT(error_of(ask({"x"}, "y"), "c"), HasSubstr("task embed"));
  const Call call = greedy_call("Once", 2);
  ASSERT_FALSE(registry_->submit("d", call.request));
  ASSERT_TRUE(call.heard->wait_end());
  EXPECT_THAT(call.heard->error()->message, HasSubstr("task embed"));
  EXPECT_EQ(info("a").state, State::kFailed);
}

TEST_F(Embedding, RequestOfAnotherKindIsRefused) {
  make({embeds(), scores(), shipped()});
  EXPECT_EQ(registry_->task("bert"), Task::kEmbed);
  EXPECT_EQ(registry_->task("rank"), Task::kScore);
  EXPECT_EQ(registry_->task("tiny"), Task::kGenerate);
  EXPECT_THAT(error_of(ask({"x"}), "tiny"), HasSubstr("its task is generate"));
  EXPECT_THAT(error_of(ask({"x"}), "rank"), HasSubstr("its task is score"));
  EXPECT_THAT(error_of(ask({"x"}, "y"), "bert"), HasSubstr("its task is embed"));
  const Call call = greedy_call("Once", 2);
  ASSERT_FALSE(registry_->submit("bert", call.request));
  ASSERT_TRUE(call.heard->wait_end());
  EXPECT_THAT(call.heard->error()->message, HasSubstr("its task is embed"));
}

TEST_F(Embedding, FolderSaysWhatItsModelsAreFor) {
  const auto folder = bert->folder() / "models";
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(bert->file(), folder / "embeds.gguf");
  std::filesystem::copy_file(bert->file(LLAMA_POOLING_TYPE_RANK), folder / "scores.gguf");
  std::filesystem::copy_file(kShippedModel, folder / "generates.gguf");
  RegistryOptions options;
  options.directory = folder;
  options.of_directory.batch.mode = schedule::BatchMode::kLearned;
  make({}, options);
  EXPECT_EQ(registry_->task("embeds"), Task::kEmbed);
  EXPECT_EQ(registry_->task("scores"), Task::kScore);
  EXPECT_EQ(registry_->task("generates"), Task::kGenerate);
  EXPECT_EQ(vectors_of({"the bird"}, "embeds").size(), SyntheticBert::kWidth);
}

TEST_F(Embedding, IsLoadedOnceForManyAtOnceUnloadedWhenIdleAndLoadedAgain) {
  ModelOptions options = embeds();
  options.keep_alive = seconds(30);
  make({options});
  EXPECT_EQ(info().state, State::kUnloaded);
  std::vector<Asked> all;
  for (int i = 0; i < 16; ++i) all.push_back(ask({"the bird"}));
  for (const Asked& asked : all) submit(asked);
  for (const Asked& asked : all) ASSERT_TRUE(asked.heard->wait_end());
  ASSERT_TRUE(registry_->wait_idle(seconds(60)));
  EXPECT_EQ(info().loads, 1U);
  EXPECT_EQ(info().state, State::kReady);
  EXPECT_EQ(info().context_tokens, SyntheticBert::kContextTokens);
  EXPECT_GT(info().memory_bytes, info().file_bytes);
  clock_.advance(seconds(31));
  registry_->wake();
  const auto give_up = std::chrono::steady_clock::now() + seconds(60);
  while (info().memory_bytes > 0 && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(info().state, State::kUnloaded);
  EXPECT_EQ(info().memory_bytes, 0U);
  EXPECT_EQ(vectors_of({"the bird"}).size(), SyntheticBert::kWidth);
  EXPECT_EQ(info().loads, 2U);
  EXPECT_EQ(info().batches->members, 17U);
}

TEST_F(Embedding, CancelledAndLateRequestsLeaveAndOthersGoOn) {
  ModelOptions options = embeds();
  options.batch.mode = schedule::BatchMode::kFixed;
  options.batch.timeout = seconds(3600);
  options.batch.preferred_batch_size = 3;
  make({options});
  vectors_of({"a", "b", "c"});  // loaded
  const Asked gone = ask({"one text"});
  const Asked late = ask({"another text"});
  late.request->deadline = clock_.now() + seconds(10);
  submit(gone);
  gone.request->cancel();
  ASSERT_TRUE(gone.heard->wait_end());
  EXPECT_EQ(gone.heard->error()->code, Code::kCancelled);
  submit(late);
  clock_.advance(seconds(11));
  const Asked stays = ask({"a", "b", "c"});
  submit(stays);
  ASSERT_TRUE(stays.heard->wait_end());
  EXPECT_FALSE(stays.heard->error());
  ASSERT_TRUE(late.heard->wait_end());
  EXPECT_EQ(late.heard->error()->code, Code::kResourceExhausted);
  EXPECT_EQ(info().cancelled, 1U);
  EXPECT_EQ(info().expired, 1U);
}

TEST_F(Embedding, EndEndsWhatWaitsAndEachHearsOneEnd) {
  ModelOptions options = embeds();
  options.batch.mode = schedule::BatchMode::kFixed;
  options.batch.timeout = seconds(3600);
  options.batch.preferred_batch_size = 32;
  make({options});
  std::vector<Asked> all;
  for (int i = 0; i < 5; ++i) all.push_back(ask({"the bird"}));
  for (const Asked& asked : all) submit(asked);
  registry_.reset();
  for (const Asked& asked : all) {
    EXPECT_EQ(asked.heard->ends(), 1);
    ASSERT_TRUE(asked.heard->error());
    EXPECT_EQ(asked.heard->error()->code, Code::kUnavailable);
  }
}

TEST_F(Embedding, OptionsOutOfRangeAreNamed) {
  ModelOptions options = embeds();
  options.batch.max_batch_size = 257;
  const auto too_many = Registry::create({options}, clock_, workers());
  ASSERT_FALSE(too_many.ok());
  EXPECT_THAT(too_many.error().message, HasSubstr("batch.max_batch_size must be 1..256, not 257"));
  options = embeds();
  options.max_batch_tokens = 8;
  const auto too_few = Registry::create({options}, clock_, workers());
  ASSERT_FALSE(too_few.ok());
  EXPECT_THAT(too_few.error().message, HasSubstr("batch.max_batch_tokens must be 16.."));
}

}  // namespace
}  // namespace weir::model
