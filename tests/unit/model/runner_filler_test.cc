// SPDX-License-Identifier: Apache-2.0
//
// Prompts of nearly one length in one step of the runner, with the shipped model: the shorter ones
// are made as long as the longest for the time of the decode, and nothing is left of that. The
// clock says here that a pass takes the same time whatever is in it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "agent/model/batch_runner.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

class LookClock final : public Clock {
 public:
  TimePoint now() const override {
    if (on_look) on_look();
    return TimePoint(Duration(++looks_ * std::chrono::microseconds(100)));
  }
  std::function<void()> on_look;

 private:
  mutable std::int64_t looks_ = 1'000'000;
};

struct RunnerFillerTest : testing::Test {
  void make(std::uint32_t sequences) {
    ModelOptions options = shipped(sequences);
    options.context_tokens = 128;
    auto model = LoadedModel::load(options, [](float) { return true; });
    ASSERT_TRUE(model.ok()) << model.error().message;
    runner.emplace(std::move(*model), clock, stopping,
                   RunnerOptions{kDefaultParkBytes, /*prefix_reuse=*/false});
  }
  std::shared_ptr<RecordingListener> admit(const std::string& prompt) {
    const Call call = greedy_call(prompt, 20);
    Taken taken;
    taken.request = call.request;
    taken.prompt = *runner->model().vocabulary().tokenize(prompt);
    lengths.push_back(static_cast<llama_pos>(taken.prompt.size()));
    runner->admit(std::move(taken), report);
    return call.heard;
  }
  /// What each said.
  std::vector<std::string> run(const std::vector<std::string>& prompts) {
    lengths.clear();
    std::vector<std::shared_ptr<RecordingListener>> heard;
    for (const auto& prompt : prompts) heard.push_back(admit(prompt));
    for (int i = 0; runner->running() > 0 && i < 1000; ++i) {
      runner->step(report);
      if (after_step) after_step();
    }
    EXPECT_EQ(runner->running(), 0U);
    EXPECT_EQ(report.ended.size(), prompts.size());
    report = {};
    std::vector<std::string> texts;
    for (const auto& one : heard) texts.push_back(one->text());
    return texts;
  }
  [[nodiscard]] llama_pos cells(llama_seq_id slot) {
    return llama_memory_seq_pos_max(runner->model().memory(), slot) + 1;
  }

  LookClock clock;
  std::atomic<bool> stopping{false};
  std::optional<BatchRunner> runner;
  StepReport report;
  std::vector<llama_pos> lengths;
  std::function<void()> after_step;
};

TEST_F(RunnerFillerTest, PromptsOfNearlyOneLengthShareAPassAndSayWhatTheySayAlone) {
  const std::vector<std::string> prompts = {"Once upon a time there was a little fox who",
                                            "Once there was a clever owl in the big tree",
                                            "One windy day Tom and Mia walked to the park and"};
  make(1);
  std::vector<std::string> alone;
  for (const auto& prompt : prompts) alone.push_back(run({prompt})[0]);
  make(3);
  // What a pass costs is known from now on, and that a token costs nothing.
  for (int i = 0; i < 10; ++i) {
    (void)run({"Hello!"});
    (void)run({prompts[0] + " and " + prompts[1] + " and " + prompts[2]});
  }
  llama_pos longest = 0;
  llama_pos most_of_shortest = 0;
  std::size_t shortest = 0;
  bool first = true;
  clock.on_look = [&] {
    if (!first || lengths.size() < prompts.size()) return;
    shortest = static_cast<std::size_t>(std::min_element(lengths.begin(), lengths.end()) -
                                        lengths.begin());
    longest = *std::max_element(lengths.begin(), lengths.end());
    most_of_shortest = std::max(most_of_shortest, cells(static_cast<llama_seq_id>(shortest)));
  };
  after_step = [&] {
    if (first) {
      EXPECT_EQ(cells(static_cast<llama_seq_id>(shortest)), lengths[shortest]);
    }
    first = false;
  };
  EXPECT_EQ(run(prompts), alone);
  EXPECT_FALSE(first);
  EXPECT_LT(lengths[shortest], longest);
  EXPECT_EQ(most_of_shortest, longest);
}

}  // namespace
}  // namespace weir::model
