// SPDX-License-Identifier: Apache-2.0
//
// With real children: weir-load-trial lies beside the program of the tests.
#include "agent/model/load_trial.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "tests/fixtures/address_space_limit.h"
#include "tests/fixtures/gguf_writer.h"

namespace weir::model {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using Outcome = TrialResult::Outcome;

constexpr const char* kShipped = "deploy/models/tiny-stories-1m-q8_0.gguf";

bool go_on() { return true; }

class LoadTrial : public testing::Test {
 protected:
  ~LoadTrial() override { std::filesystem::remove(path_); }

  TrialResult try_bytes(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return try_load(path_, trial_limits(bytes.size()), go_on);
  }

  const std::string path_ = std::filesystem::temp_directory_path() /
                            ("weir-load-trial-" + std::to_string(::getpid()) + ".gguf");
};

TEST_F(LoadTrial, PassesGoodModels) {
  const TrialResult shipped = try_load(kShipped, trial_limits(1 << 21), go_on);
  EXPECT_EQ(shipped.outcome, Outcome::kPassed) << shipped.reason;
  const TrialResult small = try_bytes(small_model().file());
  EXPECT_EQ(small.outcome, Outcome::kPassed) << small.reason;
}

TEST_F(LoadTrial, TellsWhatLibllamaSays) {
  GgufWriter model = small_model();
  model.text("general.architecture", "nosuch");
  const TrialResult unknown = try_bytes(model.file());
  EXPECT_EQ(unknown.outcome, Outcome::kRefused);
  EXPECT_THAT(unknown.reason, HasSubstr("unknown model architecture: 'nosuch'"));
  model = small_model();
  model.tensor("output_norm.weight").name = "another.weight";
  const TrialResult missing = try_bytes(model.file());
  EXPECT_EQ(missing.outcome, Outcome::kRefused);
  EXPECT_THAT(missing.reason, HasSubstr("output_norm.weight"));
}

TEST_F(LoadTrial, SurvivesTheAbortsOfLibllama) {
  // Heads of one dimension: their positions cannot be rotated, which takes pairs.
  GgufWriter model = small_model();
  model.u32("llama.attention.head_count", 32).u32("llama.attention.head_count_kv", 16);
  const TrialResult result = try_bytes(model.file());
  EXPECT_EQ(result.outcome, Outcome::kDied) << result.reason;
  EXPECT_THAT(result.reason, StartsWith("libllama dies of it while "));
  EXPECT_THAT(result.reason, HasSubstr(": signal 6 (Aborted); "));
  EXPECT_THAT(result.reason, HasSubstr("GGML_ASSERT("));
  EXPECT_EQ(result.reason.find('/'), std::string::npos) << "a path of the build: " << result.reason;
}

TEST_F(LoadTrial, SurvivesItsBadAccesses) {
  // Indices are no weights: nothing in ggml can multiply by them.
  GgufWriter model = small_model();
  model.tensor("blk.0.ffn_up.weight").type = 26;  // GGML_TYPE_I32
  const TrialResult result = try_bytes(model.file());
  EXPECT_EQ(result.outcome, Outcome::kDied) << result.reason;
  EXPECT_EQ(result.reason,
            "libllama dies of it while decoding a few tokens: signal 11 (Segmentation fault)");
}

TEST_F(LoadTrial, SurvivesExceptionsOfTheTokenizer) {
  // No token for a byte: SentencePiece has nothing to fall back to, and throws at some prompt.
  GgufWriter model = small_model();
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  for (std::size_t i = 3; i < kSmallModelTokens; ++i) tokens.push_back("t" + std::to_string(i));
  model.strings("tokenizer.ggml.tokens", tokens).erase("tokenizer.ggml.token_type");
  const TrialResult result = try_bytes(model.file());
  EXPECT_TRUE(result.outcome == Outcome::kRefused || result.outcome == Outcome::kDied)
      << result.reason;
  EXPECT_THAT(result.reason, Not(testing::IsEmpty()));
}

TEST_F(LoadTrial, RefusesWeightsThatAreNotNumbers) {
  GgufWriter model = small_model();
  std::string& data = model.tensor("output_norm.weight").data;
  for (std::size_t at = 0; at < data.size(); at += 4) data.replace(at, 4, "\xFF\xFF\xFF\x7F");
  const TrialResult result = try_bytes(model.file());
  EXPECT_EQ(result.outcome, Outcome::kRefused);
  EXPECT_EQ(result.reason, "its weights are damaged: it computes logits that are not numbers");
}

TEST_F(LoadTrial, EndsInTimeOrIsEnded) {
  TrialLimits limits = trial_limits(1 << 21);
  limits.wall = std::chrono::milliseconds(0);
  const TrialResult late = try_load(kShipped, limits, go_on);
  EXPECT_EQ(late.outcome, Outcome::kCut);
  EXPECT_EQ(late.reason, "libllama was not done with it after 0.0 s, while starting");
  const TrialResult stopped = try_load(kShipped, trial_limits(1 << 21), [] { return false; });
  EXPECT_EQ(stopped.outcome, Outcome::kStopped);
}

TEST_F(LoadTrial, HasNoMoreMemoryThanItMay) {
  if (!kLimitsAddressSpace) GTEST_SKIP() << "sanitizers need more of the address space";
  TrialLimits limits = trial_limits(1 << 21);
  limits.memory_bytes = 24 << 20;  // enough to begin, too little for a context
  const TrialResult result = try_load(kShipped, limits, go_on);
  EXPECT_TRUE(result.outcome == Outcome::kRefused || result.outcome == Outcome::kDied)
      << static_cast<int>(result.outcome) << " " << result.reason;
}

TEST_F(LoadTrial, LeavesNoProcessAndNoDescriptor) {
  const auto open_files = [] {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
  };
  const auto before = open_files();
  EXPECT_EQ(try_load(kShipped, trial_limits(1 << 21), go_on).outcome, Outcome::kPassed);
  EXPECT_EQ(try_load(kShipped, trial_limits(1 << 21), [] { return false; }).outcome,
            Outcome::kStopped);
  EXPECT_EQ(open_files(), before);
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(LoadTrial, RunsBesideOthers) {
  std::vector<Outcome> outcomes(4, Outcome::kUnavailable);
  {
    std::vector<std::jthread> threads;
    for (Outcome& outcome : outcomes) {
      threads.emplace_back(
          [&outcome] { outcome = try_load(kShipped, trial_limits(1 << 21), go_on).outcome; });
    }
  }
  EXPECT_THAT(outcomes, testing::Each(Outcome::kPassed));
}

TEST(TrialLimits, GrowWithTheModel) {
  const TrialLimits none = trial_limits(0);
  EXPECT_EQ(none.wall, std::chrono::seconds(30));
  EXPECT_EQ(none.cpu, std::chrono::seconds(10));
  EXPECT_EQ(none.memory_bytes, std::uint64_t{1} << 30);
  const TrialLimits large = trial_limits(std::uint64_t{4} << 30);
  EXPECT_EQ(large.wall, std::chrono::seconds(30 + 512));
  EXPECT_EQ(large.cpu, std::chrono::seconds(10 + 128));
  EXPECT_EQ(large.memory_bytes, std::uint64_t{13} << 30);
}

}  // namespace
}  // namespace weir::model
