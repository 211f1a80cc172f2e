// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/generate.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <boost/json/parse.hpp>
#include <chrono>

namespace weir::ctl {
namespace {

using namespace std::chrono_literals;

class GenerateOptionsTest : public testing::Test {
 protected:
  void parse(const std::string& arguments) { app_.parse("generate " + arguments); }

  CLI::App app_;
  GenerateCommand command_{app_};
};

TEST_F(GenerateOptionsTest, HasDefaultsForAllButModelAndPrompt) {
  parse("-m file.gguf -p hello");
  ASSERT_TRUE(command_.parsed());
  const GenerateOptions& options = command_.options();
  EXPECT_EQ(options.model.path, "file.gguf");
  EXPECT_EQ(options.prompt, "hello");
  EXPECT_EQ(options.max_tokens, 128U);
  EXPECT_EQ(options.model.sequences, 1U);
  EXPECT_FALSE(options.model.threads.has_value());
  EXPECT_FALSE(options.model.context_tokens.has_value());
  EXPECT_FALSE(options.sampling.seed.has_value());
  EXPECT_TRUE(options.stop.empty());
  EXPECT_FALSE(options.json);
}

TEST_F(GenerateOptionsTest, TakesThemAll) {
  parse(
      "-m f -p - -n 7 --temperature 0.5 --top-k 3 --top-p 0.25 --seed 9 --stop A --stop B "
      "--threads 2 --context 64 --json");
  const GenerateOptions& options = command_.options();
  EXPECT_EQ(options.prompt, "-");
  EXPECT_EQ(options.max_tokens, 7U);
  EXPECT_EQ(options.sampling.temperature, 0.5F);
  EXPECT_EQ(options.sampling.top_k, 3);
  EXPECT_EQ(options.sampling.top_p, 0.25F);
  EXPECT_EQ(options.sampling.seed, 9U);
  EXPECT_EQ(options.stop, (std::vector<std::string>{"A", "B"}));
  EXPECT_EQ(options.model.threads, 2U);
  EXPECT_EQ(options.model.context_tokens, 64U);
  EXPECT_TRUE(options.json);
}

TEST_F(GenerateOptionsTest, RefusesWhatIsMissingOrOutOfRange) {
  for (const char* const wrong :
       {"-p x", "-m f", "-m f -p x -n 0", "-m f -p x --temperature 2.1", "-m f -p x --top-p 0",
        "-m f -p x --top-k -1", "-m f -p x --seed -1", "-m f -p x --threads 0",
        "-m f -p x --context 31", "-m f -p x --stop"}) {
    EXPECT_THROW(parse(wrong), CLI::ParseError) << wrong;
  }
}

TEST(GenerateContext, HoldsPromptAndAnswerWhateverTheTokenizer) {
  EXPECT_EQ(context_for(5, 100), 512U);
  EXPECT_EQ(context_for(400, 104), 512U);  // 8 for the marks
  EXPECT_EQ(context_for(400, 105), 768U);
  EXPECT_EQ(context_for(std::size_t{1} << 40U, 1), model::kMostContextTokens);
}

model::Completion some_completion() {
  model::Completion completion;
  completion.reason = model::FinishReason::kLength;
  completion.usage.prompt_tokens = 50;
  completion.usage.completion_tokens = 21;
  completion.queued = 250ms;
  completion.first_token = 350ms;
  completion.total = 750ms;
  return completion;
}

TEST(GenerateTimings, CountTheFirstTokenToThePrompt) {
  EXPECT_EQ(timings_text(some_completion()),
            "load 0.25 s, prompt 50 tokens 500.0/s, generated 21 tokens 50.0/s, ended by length");
}

TEST(GenerateTimings, OfNoTokenAreZero) {
  model::Completion completion;
  completion.queued = completion.first_token = completion.total = 250ms;
  EXPECT_EQ(timings_text(completion),
            "load 0.25 s, prompt 0 tokens 0.0/s, generated 0 tokens 0.0/s, ended by stop");
}

TEST(GenerateAnswer, IsOneObject) {
  const auto answer = boost::json::parse(answer_json("a \"b\"", some_completion())).as_object();
  EXPECT_EQ(answer.at("text").as_string(), "a \"b\"");
  EXPECT_EQ(answer.at("finish_reason").as_string(), "length");
  EXPECT_EQ(answer.at("usage").at("prompt_tokens").as_int64(), 50);
  EXPECT_EQ(answer.at("usage").at("completion_tokens").as_int64(), 21);
  EXPECT_EQ(answer.at("timings").at("load_ms").to_number<double>(), 250);
  EXPECT_EQ(answer.at("timings").at("prompt_per_second").to_number<double>(), 500);
  EXPECT_EQ(answer.at("timings").at("generated_per_second").to_number<double>(), 50);
}

}  // namespace
}  // namespace weir::ctl
