// SPDX-License-Identifier: Apache-2.0
//
// Prompts of nearly one length in one step of the runner, with the shipped model: the shorter ones
// are made as long as the longest for the time of the decode, and nothing is left of that. The
// clock says here that a pass takes the same time whatever is in it.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/model/batch_runner.h"
#include "tests/fixtures/stepped_runner.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

struct RunnerFillerTest : SteppedRunnerTest {
  RunnerFillerTest() { clock.tick = std::chrono::microseconds(100); }
  void make(std::uint32_t sequences) {
    ModelOptions options = shipped(sequences);
    options.context_tokens = 128;
    load(options, {kDefaultParkBytes, /*prefix_reuse=*/false});
  }
  /// What each said.
  std::vector<std::string> say(const std::vector<std::string>& prompts) {
    lengths.clear();
    std::vector<std::shared_ptr<RecordingListener>> heard;
    for (const auto& prompt : prompts) {
      const Call call = greedy_call(prompt, 20);
      lengths.push_back(static_cast<llama_pos>(admit_request(call.request)));
      heard.push_back(call.heard);
    }
    for (int i = 0; runner->running() > 0 && i < 1000; ++i) {
      step();
      if (after_step) after_step();
    }
    std::vector<std::string> texts;
    for (const auto& one : heard) {
      EXPECT_EQ(one->ends(), 1);
      texts.push_back(one->text());
    }
    return texts;
  }
  [[nodiscard]] llama_pos cells(llama_seq_id slot) {
    return llama_memory_seq_pos_max(runner->model().memory(), slot) + 1;
  }

  std::vector<llama_pos> lengths;
  std::function<void()> after_step;
};

TEST_F(RunnerFillerTest, PromptsOfNearlyOneLengthShareAPassAndSayWhatTheySayAlone) {
  const std::vector<std::string> prompts = {"Once upon a time there was a little fox who",
                                            "Once there was a clever owl in the big tree",
                                            "One windy day Tom and Mia walked to the park and"};
  make(1);
  std::vector<std::string> alone;
  for (const auto& prompt : prompts) alone.push_back(say({prompt})[0]);
  make(3);
  // What a pass costs is known from now on, and that a token costs nothing.
  for (int i = 0; i < 10; ++i) {
    (void)say({"Hello!"});
    (void)say({prompts[0] + " and " + prompts[1] + " and " + prompts[2]});
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
  EXPECT_EQ(say(prompts), alone);
  EXPECT_FALSE(first);
  EXPECT_LT(lengths[shortest], longest);
  EXPECT_EQ(most_of_shortest, longest);
}

}  // namespace
}  // namespace weir::model
