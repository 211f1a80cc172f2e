// SPDX-License-Identifier: Apache-2.0
//
// Requests for files that are not models, by the registry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "agent/model/registry.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

class BadFile : public testing::Test {
 protected:
  BadFile()
      : directory_(std::filesystem::temp_directory_path() /
                   ("weir-model-test-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(directory_);
    std::ifstream in(kShippedModel, std::ios::binary);
    good_.assign(std::istreambuf_iterator<char>(in), {});
  }
  ~BadFile() override { std::filesystem::remove_all(directory_); }

  std::string write(const std::string& bytes) {
    const std::string path = directory_ / "model.gguf";
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  // The error that the first request for such a file hears.
  std::string first_error(const std::string& bytes) {
    ModelOptions options = shipped();
    options.path = write(bytes);
    const auto registry = make_registry(options, clock_);
    const Call call = greedy_call("Once upon a time", 5);
    EXPECT_FALSE(registry->submit("tiny", call.request));
    EXPECT_TRUE(call.heard->wait_end());
    EXPECT_EQ(registry->models().at(0).state, ModelInfo::State::kFailed);
    const auto error = call.heard->error();
    if (!error) {
      return "no error";
    }
    EXPECT_EQ(error->code, Code::kUnavailable);
    EXPECT_THAT(error->message, HasSubstr(options.path));
    EXPECT_EQ(registry->models().at(0).failure,
              error->message.substr(std::string("the model could not be loaded: ").size()));
    return error->message;
  }

  FakeClock clock_;
  const std::filesystem::path directory_;
  std::string good_;
};

TEST_F(BadFile, IsRefusedWithTheReason) {
  EXPECT_THAT(first_error(""), HasSubstr("empty"));
  EXPECT_THAT(first_error("version https://git-lfs.github.com/spec/v1\n"),
              HasSubstr("not a GGUF file"));
  EXPECT_THAT(first_error(good_.substr(0, 20)), HasSubstr("truncated"));
  // Cut inside the metadata, and inside the weights.
  EXPECT_THAT(first_error(good_.substr(0, 3000)), HasSubstr("metadata entry 23 of 32"));
  EXPECT_THAT(first_error(good_.substr(0, good_.size() / 2)), HasSubstr("bytes are missing"));
  // libllama would abort() on this one.
  std::string too_many_layers = good_;
  const std::string key = "llama.block_count";
  too_many_layers[good_.find(key) + key.size() + 4 + 2] = '\x7F';  // after the value's type
  EXPECT_THAT(first_error(too_many_layers),
              HasSubstr("llama.block_count is 8323077, but the file has only 47 tensors"));
  std::string token_twice = good_;  // here too
  token_twice.replace(good_.find("lantern"), 7, "learned");
  EXPECT_THAT(first_error(token_twice), HasSubstr("learned\" occurs twice"));
  std::string vocabulary_only = good_;
  std::fill_n(vocabulary_only.begin() + 8, 8, '\0');
  EXPECT_THAT(first_error(vocabulary_only), HasSubstr("vocabulary"));
}

TEST_F(BadFile, IsTriedAgainAfterABackoffThatDoubles) {
  ModelOptions options = shipped();
  options.path = write("not a model");
  const auto registry = make_registry(options, clock_);
  const auto fails = [&] {
    const Call call = greedy_call("Once upon a time", 5);
    EXPECT_FALSE(registry->submit("tiny", call.request));
    EXPECT_TRUE(call.heard->wait_end());
    EXPECT_TRUE(call.heard->error());
  };
  const auto refused_for = [&] {
    const Call call = greedy_call("Once upon a time", 5);
    const auto refusal = registry->submit("tiny", call.request);
    EXPECT_TRUE(refusal);
    EXPECT_EQ(refusal->reason, RefusalReason::kLoading);
    EXPECT_THAT(refusal->message, HasSubstr("not a GGUF file"));
    return *refusal->retry_after;
  };
  for (const int backoff_s : {5, 10, 20, 40, 60, 60}) {
    fails();
    EXPECT_EQ(refused_for(), seconds(backoff_s));
    clock_.advance(seconds(backoff_s) - std::chrono::milliseconds(1500));
    EXPECT_EQ(refused_for(), seconds(2));
    clock_.advance(std::chrono::milliseconds(1500));
  }
  EXPECT_EQ(registry->models().at(0).loads, 6U);
  // Somebody put the right file there.
  write(good_);
  const Call call = greedy_call("Once upon a time", 5);
  ASSERT_FALSE(registry->submit("tiny", call.request));
  ASSERT_TRUE(call.heard->wait_end());
  EXPECT_TRUE(call.heard->completion());
  EXPECT_EQ(registry->models().at(0).failure, "");
  EXPECT_EQ(registry->models().at(0).state, ModelInfo::State::kReady);
}

TEST_F(BadFile, DoesNotDisturbAnotherModel) {
  ModelOptions bad = shipped();
  bad.name = "bad";
  bad.path = write(good_.substr(0, good_.size() / 2));
  const auto registry = Registry::create({bad, shipped()}, clock_, workers());
  ASSERT_TRUE(registry.ok());
  const Call to_bad = greedy_call("Once upon a time", 20);
  const Call to_good = greedy_call("Once upon a time", 20);
  ASSERT_FALSE((*registry)->submit("bad", to_bad.request));
  ASSERT_FALSE((*registry)->submit("tiny", to_good.request));
  ASSERT_TRUE(to_bad.heard->wait_end());
  ASSERT_TRUE(to_good.heard->wait_end());
  EXPECT_TRUE(to_bad.heard->error());
  EXPECT_TRUE(to_good.heard->completion());
}

}  // namespace
}  // namespace weir::model
