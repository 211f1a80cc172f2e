// SPDX-License-Identifier: Apache-2.0
//
// A long prompt beside sequences that generate, computed in slices by the runner with the shipped
// model on the test's own thread.
#include "agent/model/sliced_prefill.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "agent/model/batch_runner.h"
#include "tests/fixtures/stepped_runner.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

struct SlicedPrefillTest : SteppedRunnerTest {
  SlicedPrefillTest() { clock.tick = std::chrono::microseconds(50); }
  void make(std::uint32_t sequences, std::optional<std::uint32_t> kv_tokens = std::nullopt) {
    ModelOptions options = shipped(sequences);
    options.context_tokens = 2048;
    options.kv_tokens = kv_tokens;
    RunnerOptions runs;
    runs.meanwhile = [this] {
      ++between;
      if (on_between) on_between();
      step();
    };
    load(options, runs);
  }
  Call admit(const std::string& prompt, std::uint32_t max_tokens, std::int32_t level = 4) {
    Call call = greedy_call(prompt, max_tokens);
    prompt_tokens = admit_request(call.request, level);
    return call;
  }
  /// Streams whose steps have told what tokens of either kind cost.
  std::vector<Call> streams(int number) {
    std::vector<Call> calls;
    for (int i = 0; i < number; ++i) {
      calls.push_back(admit("Once upon a time there was a fox. " + std::to_string(i), 600));
    }
    for (int i = 0; i < 12; ++i) step();
    return calls;
  }

  std::function<void()> on_between;
  int between = 0;
  std::size_t prompt_tokens = 0;  ///< of the request admitted last
};

std::string long_prompt(const std::string& begin, int sentences = 120) {
  return begin + repeated(" Lily had a red ball. Tom had a blue boat.", sentences);
}

TEST_F(SlicedPrefillTest, OthersHaveTheirStepsAndTheTextIsWhatItIsAlone) {
  make(1);
  const Call alone = admit(long_prompt("One day"), 30);
  run();
  EXPECT_EQ(runner->reading().sliced_prompts, 0U);
  for (const std::optional<std::uint32_t> pool : {std::optional<std::uint32_t>{}, {4096U}}) {
    make(4, pool);
    between = 0;
    const std::vector<Call> others = streams(3);
    const std::uint64_t before = totals.prompt_tokens;
    const Call call = admit(long_prompt("One day"), 30);
    std::size_t heard = 0;
    on_between = [&] { heard = others[0].heard->text().size(); };
    const std::size_t heard_before = others[0].heard->text().size();
    for (int i = 0; i < 100 && runner->reading().sliced_prompts == 0; ++i) step();
    EXPECT_EQ(runner->reading().sliced_prompts, 1U);
    EXPECT_GT(between, 5);
    EXPECT_GT(heard, heard_before);
    EXPECT_EQ(totals.prompt_tokens - before, prompt_tokens - 1);
    EXPECT_EQ(call.heard->ends(), 0);
    on_between = {};
    for (const Call& other : others) other.request->cancel();
    run();
    ASSERT_TRUE(call.heard->completion()) << call.heard->error()->message;
    EXPECT_EQ(call.heard->text(), alone.heard->text());
    EXPECT_EQ(totals.prompt_tokens - before, prompt_tokens);
    EXPECT_EQ(runner->reading().recomputed_tokens, 0U);
    EXPECT_EQ(runner->reading().sliced_drops, 0U);
    EXPECT_EQ(runner->reading().kv_cells_in_use, 0U);
  }
}

TEST_F(SlicedPrefillTest, GoesOnFromWhatAnotherRequestHasLeft) {
  make(3);
  const std::vector<Call> others = streams(1);
  const Call first = admit(long_prompt("One day", 60), 5);
  for (int i = 0; i < 100 && first.heard->ends() == 0; ++i) step();
  ASSERT_EQ(runner->reading().sliced_prompts, 1U);
  const std::string prompt = long_prompt("One day");  // half of it is there already
  const Call call = admit(prompt, 30);
  for (int i = 0; i < 100 && runner->reading().sliced_prompts == 1; ++i) step();
  EXPECT_EQ(runner->reading().sliced_prompts, 2U);
  others[0].request->cancel();
  run();
  const std::string text = call.heard->text();
  EXPECT_GT(call.heard->completion()->usage.cached_tokens, 300U);
  make(1);
  const Call alone = admit(prompt, 30);
  run();
  EXPECT_EQ(text, alone.heard->text());
}

TEST_F(SlicedPrefillTest, WhoLeavesMeanwhileIsGoneWithTheNextStep) {
  make(3);
  const std::vector<Call> others = streams(2);
  const std::uint64_t before = totals.prompt_tokens;
  const Call call = admit(long_prompt("One day"), 30);
  int cancelled_at = 0;
  on_between = [&] {
    if (between != 4) return;
    call.request->cancel();
    cancelled_at = between;
  };
  for (int i = 0; i < 100 && call.heard->ends() == 0; ++i) step();
  EXPECT_EQ(call.heard->ends(), 1);
  EXPECT_EQ(call.heard->error()->code, Code::kCancelled);
  EXPECT_EQ(between, cancelled_at);
  EXPECT_EQ(runner->reading().sliced_drops, 1U);
  EXPECT_LT(totals.prompt_tokens - before, prompt_tokens);
  run();
  for (const Call& other : others) EXPECT_TRUE(other.heard->completion());
  EXPECT_EQ(runner->reading().kv_cells_in_use, 0U);
}

TEST_F(SlicedPrefillTest, WaitsForTheLongPromptOfAHigherLevel) {
  make(4);
  const std::vector<Call> others = streams(1);
  const Call low = admit(long_prompt("One day"), 5);
  Call high;
  int high_was_read = 0;
  on_between = [&] {
    if (between == 3) high = admit(long_prompt("Tom and Mia"), 5, 1);
    if (between > 3 && high_was_read == 0 && !high.heard->text().empty()) high_was_read = between;
  };
  for (int i = 0; i < 100 && runner->reading().sliced_prompts == 0; ++i) step();
  EXPECT_GT(high_was_read, 3);
  EXPECT_EQ(low.heard->text(), "");
  on_between = {};
  others[0].request->cancel();
  run();
  EXPECT_TRUE(low.heard->completion());
  EXPECT_TRUE(high.heard->completion());
}

TEST_F(SlicedPrefillTest, AnotherLongPromptWaitsForItsTurn) {
  make(4);
  const std::vector<Call> others = streams(1);
  const Call first = admit(long_prompt("One day"), 5);
  const Call second = admit(long_prompt("Tom and Mia"), 5);
  for (int i = 0; i < 100 && runner->reading().sliced_prompts < 2; ++i) step();
  EXPECT_EQ(runner->reading().sliced_prompts, 2U);
  EXPECT_FALSE(first.heard->text().empty());
  others[0].request->cancel();
  run();
  EXPECT_LT(first.heard->ended_at(), second.heard->ended_at());
}

TEST_F(SlicedPrefillTest, WhoLosesHisSlotMeanwhileIsComputedAgain) {
  make(1);
  const Call alone = admit(long_prompt("One day"), 20);
  run();
  make(2);
  const std::vector<Call> others = streams(1);
  const Call call = admit(long_prompt("One day"), 20);
  on_between = [&] {
    if (between == 4) (void)admit("Once upon a time", 5, 1);
  };
  for (int i = 0; i < 100 && runner->reading().sliced_drops == 0; ++i) step();
  EXPECT_EQ(runner->reading().parks, 1U);
  on_between = {};
  run();
  EXPECT_EQ(call.heard->text(), alone.heard->text());
  EXPECT_EQ(runner->reading().kv_cells_in_use, 0U);
}

TEST_F(SlicedPrefillTest, StopsWithTheEngine) {
  make(2);
  const std::vector<Call> others = streams(1);
  const Call call = admit(long_prompt("One day"), 20);
  on_between = [&] { stopping = between == 4; };
  for (int i = 0; i < 100 && !stopping; ++i) step();
  EXPECT_EQ(between, 4);
  EXPECT_EQ(runner->reading().sliced_prompts, 0U);
  StepReport report;
  runner->fail_all(make_error(Code::kUnavailable, "stopping"), report);
  EXPECT_EQ(report.ended.size(), 2U);
}

std::vector<std::uint8_t> words(std::initializer_list<std::uint32_t> values) {
  std::vector<std::uint8_t> bytes;
  for (const std::uint32_t value : values) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes.push_back(static_cast<std::uint8_t>(value >> shift));
    }
  }
  return bytes;
}

TEST(SavedSequence, MovesBetweenContextsOfOneStreamAndOfMany) {
  // What it is, its id, streams; the third has two cells, with something in them.
  std::vector<std::uint8_t> state = words({7, 0, 4, 0, 0, 2, 100, 0, 0});
  ASSERT_TRUE(to_one_stream(state));
  EXPECT_EQ(state, words({7, 0, 1, 2, 100, 0}));
  ASSERT_TRUE(to_streams(state, 3));
  EXPECT_EQ(state, words({7, 0, 3, 2, 100, 0, 0, 0}));
  EXPECT_FALSE(to_streams(state, 3));  // has three already
  state = words({7, 0, 1, 2, 100});
  ASSERT_TRUE(to_one_stream(state));
  EXPECT_EQ(state, words({7, 0, 1, 2, 100}));
  for (auto other : {words({}), words({7, 0, 4}), words({7, 0, 0, 1}), words({7, 0, 9, 1}),
                     words({7, 0, 3, 2, 100, 1, 0})}) {
    EXPECT_FALSE(to_one_stream(other));
  }
}

TEST(PrefillCells, AreForPromptsThatOthersWouldWaitFor) {
  EXPECT_EQ(prefill_cells(1, 4096), 0U);
  EXPECT_EQ(prefill_cells(2, 1023), 0U);
  EXPECT_EQ(prefill_cells(2, 1024), 1024U);
  EXPECT_EQ(prefill_cells(8, 1U << 20), 16384U);
}

}  // namespace
}  // namespace weir::model
