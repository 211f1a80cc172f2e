// SPDX-License-Identifier: Apache-2.0
//
// The runner alone with the shipped model, on the test's own thread: what it says must not depend
// on who else is there, on who is parked, or on what is shared.
#include "agent/model/batch_runner.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/fixtures/stepped_runner.h"
#include "tests/unit/model/recording_listener.h"
#include "tests/unit/model/scored_listener.h"

namespace weir::model {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

struct RunnerTest : SteppedRunnerTest {
  void make(const ModelOptions& options, BatchRunner::Waiting waiting = {}) {
    load(options, {options.park_bytes, options.prefix_reuse}, std::move(waiting));
  }
  static ModelOptions plain(std::uint32_t sequences) {
    ModelOptions options = shipped(sequences);
    options.context_tokens = 512;
    options.prefix_reuse = false;
    return options;
  }
  /// `kv_tokens` cells for all.
  static ModelOptions pooled(std::uint32_t sequences, std::uint32_t kv_tokens,
                             std::uint64_t park_bytes = kDefaultParkBytes) {
    ModelOptions options = plain(sequences);
    options.kv_tokens = kv_tokens;
    options.park_bytes = park_bytes;
    return options;
  }

  ScoredCall admit(const std::string& prompt, std::uint32_t max_tokens, std::int32_t level = 4) {
    ScoredCall call = scored_call(prompt, max_tokens);
    admit_request(call.request, level);
    return call;
  }
  ScoredCall alone(const std::string& prompt, std::uint32_t max_tokens) {
    make(plain(1));
    ScoredCall call = admit(prompt, max_tokens);
    run();
    EXPECT_TRUE(call.heard->completion());
    return call;
  }

  int same = 0;  ///< texts that were as expected to the end
};

const std::vector<std::string> kPrompts = {
    "Once upon a time",
    "One windy day",
    "Lily and Tom went to the park. ",
    "Once upon a time there was a fox who had a red lantern. He was",
    "The little bear",
    "Sam had a big dog. The dog",
    "One day a girl named Mia found a small box. In the box",
    "It was the best day of all, because"};

TEST_F(RunnerTest, SaysTheSameAloneAndInAFullBatch) {
  std::vector<ScoredCall> expected;
  for (const auto& prompt : kPrompts) expected.push_back(alone(prompt, 80));
  make(plain(8));
  std::vector<ScoredCall> calls;
  for (const auto& prompt : kPrompts) {
    calls.push_back(admit(prompt, 80));
    step();  // they come one after the other, into steps of the others
  }
  run();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    same += same_but_for_a_tie(expected[i], calls[i]) ? 1 : 0;
  }
  EXPECT_GE(same, 6);
  expect_empty();
}

TEST_F(RunnerTest, TwiceTheDemandForCellsFailsNobodyAndChangesNoText) {
  std::vector<ScoredCall> expected;
  for (const auto& prompt : kPrompts) expected.push_back(alone(prompt, 120));
  for (const std::uint64_t bytes : {kDefaultParkBytes, std::uint64_t{0}}) {
    make(pooled(8, 512, bytes));
    ASSERT_EQ(runner->reading().kv_cells, 512U);
    std::vector<ScoredCall> calls;
    for (const auto& prompt : kPrompts) calls.push_back(admit(prompt, 120));
    run();
    for (std::size_t i = 0; i < calls.size(); ++i) {
      EXPECT_EQ(calls[i].heard->ends(), 1);
      ASSERT_TRUE(calls[i].heard->completion()) << calls[i].heard->error()->message;
      same += same_but_for_a_tie(expected[i], calls[i]) ? 1 : 0;
    }
    const EngineReading reading = runner->reading();
    EXPECT_GT(reading.parks, 0U);
    EXPECT_EQ(reading.restores > 0, bytes > 0);
    EXPECT_EQ(reading.recomputes > 0, bytes < kDefaultParkBytes);
    EXPECT_EQ(reading.recomputed_tokens > 0, bytes < kDefaultParkBytes);
    expect_empty();
  }
}

TEST_F(RunnerTest, FullCacheOfLongPromptsFailsNobody) {
  make(pooled(6, 768));
  std::vector<ScoredCall> calls;
  for (int i = 0; i < 6; ++i) {
    calls.push_back(admit(std::to_string(i) + repeated(" Once upon a time.", 50), 60));
  }
  run();
  for (const ScoredCall& call : calls) EXPECT_TRUE(call.heard->completion());
  expect_empty();
}

TEST_F(RunnerTest, HigherLevelGetsAPlaceAtOnceAndTheOneThatYieldsGoesOn) {
  const ScoredCall low_text = alone(kPrompts[0], 100);
  const ScoredCall high_text = alone(kPrompts[1], 20);
  make(plain(2));
  const ScoredCall first = admit(kPrompts[0], 100);
  const ScoredCall second = admit(kPrompts[0], 100);
  for (int i = 0; i < 20; ++i) step();
  EXPECT_EQ(runner->room(4), 0U);
  EXPECT_EQ(runner->room(std::nullopt), 0U);
  EXPECT_EQ(runner->room(3), 1U);
  const ScoredCall urgent = admit(kPrompts[1], 20, 3);
  EXPECT_EQ(runner->running(), 3U);
  EXPECT_EQ(runner->reading().parked, 1U);
  EXPECT_GT(runner->reading().parked_bytes, 0U);
  run();
  EXPECT_LT(urgent.heard->ended_at(), first.heard->ended_at());
  EXPECT_LT(first.heard->ended_at(), second.heard->ended_at());  // the latest yielded
  same += same_but_for_a_tie(high_text, urgent) ? 1 : 0;
  same += same_but_for_a_tie(low_text, first) ? 1 : 0;
  same += same_but_for_a_tie(low_text, second) ? 1 : 0;
  EXPECT_EQ(runner->reading().restores, 1U);
  expect_empty();
}

TEST_F(RunnerTest, ParkedOnesGoBeforeThoseThatAreNoMoreUrgent) {
  make(plain(1));
  const ScoredCall low = admit(kPrompts[0], 100, 4);
  step();
  const ScoredCall high = admit(kPrompts[0], 3, 1);
  while (high.heard->ends() == 0) step();
  EXPECT_EQ(runner->room(4), 0U);
  EXPECT_EQ(runner->room(2), 1U);
  run();
  EXPECT_TRUE(low.heard->completion());
}

TEST_F(RunnerTest, ParkedOnesLeaveWhenCancelledOrLate) {
  make(plain(1));
  const ScoredCall low = admit(kPrompts[0], 100, 5);
  step();
  const ScoredCall middle = admit(kPrompts[0], 100, 4);
  middle.request->deadline = clock.now() + std::chrono::seconds(1);
  step();
  const ScoredCall high = admit(kPrompts[0], 100, 1);
  EXPECT_EQ(runner->reading().parked, 2U);
  step();
  low.request->cancel();
  step();
  EXPECT_EQ(low.heard->error()->code, Code::kCancelled);
  clock.tick = std::chrono::seconds(2);
  step();
  run();
  EXPECT_EQ(middle.heard->error()->code, Code::kResourceExhausted);
  EXPECT_TRUE(high.heard->completion());
  expect_empty();
}

TEST_F(RunnerTest, EverythingThatRunsAndIsParkedFailsOnce) {
  make(plain(2));
  std::vector<ScoredCall> calls;
  for (const std::int32_t level : {5, 5, 1}) {
    calls.push_back(admit(kPrompts[0], 100, level));
    step();
  }
  StepReport report;
  runner->fail_all(make_error(Code::kUnavailable, "over"), report);
  settle(report);
  for (const ScoredCall& call : calls) EXPECT_EQ(call.heard->ends(), 1);
  EXPECT_EQ(runner->running(), 0U);
  expect_empty();
}

TEST_F(RunnerTest, PrefixesAreNotComputedAgainAndChangeNoText) {
  const std::string prefix = repeated("Once upon a time there was a fox. ", 25);
  std::vector<ScoredCall> expected;
  for (const auto& prompt : kPrompts) expected.push_back(alone(prefix + prompt, 30));
  for (const bool pool : {false, true}) {
    ModelOptions options = pool ? pooled(4, 1024) : plain(4);
    options.prefix_reuse = true;
    make(options);
    const std::size_t prefix_tokens = runner->model().vocabulary().tokenize(prefix)->size();
    ASSERT_GT(prefix_tokens, 200U);
    std::vector<ScoredCall> calls;
    std::uint64_t prompt_tokens = 0;
    for (std::size_t i = 0; i < kPrompts.size(); ++i) {
      while (runner->room(4) == 0) step();
      calls.push_back(admit(prefix + kPrompts[i], 30));
      prompt_tokens += runner->model().vocabulary().tokenize(prefix + kPrompts[i])->size();
    }
    run();
    for (std::size_t i = 0; i < calls.size(); ++i) {
      same += same_but_for_a_tie(expected[i], calls[i]) ? 1 : 0;
      EXPECT_GE(calls[i].heard->completion()->usage.cached_tokens, i == 0 ? 0 : prefix_tokens - 2);
    }
    const EngineReading reading = runner->reading();
    EXPECT_EQ(reading.prefix_lookups, 8U);
    EXPECT_EQ(reading.prefix_hits, 7U);
    EXPECT_GE(reading.prefix_tokens, 7 * (prefix_tokens - 2));
    EXPECT_EQ(totals.prompt_tokens + reading.prefix_tokens, prompt_tokens);
    EXPECT_EQ(reading.kv_cells_in_use, 0U);
    EXPECT_GT(reading.kv_cells_kept, 0U);
  }
}

TEST_F(RunnerTest, WholePromptThatIsKnownIsComputedButForItsLastToken) {
  ModelOptions options = plain(2);
  options.prefix_reuse = true;
  make(options);
  const std::string prompt = repeated("One windy day. ", 20);
  const ScoredCall first = admit(prompt, 5);
  run();
  const ScoredCall second = admit(prompt, 5);
  run();
  EXPECT_EQ(second.heard->text(), first.heard->text());
  const Usage usage = second.heard->completion()->usage;
  EXPECT_EQ(usage.cached_tokens, usage.prompt_tokens - 1);
}

TEST_F(RunnerTest, KeptCellsAreGivenUpWhenRequestsNeedThem) {
  ModelOptions options = pooled(2, 512);
  options.prefix_reuse = true;
  make(options);
  const ScoredCall first = admit(repeated("Once upon a time. ", 70), 10);
  run();
  EXPECT_GT(runner->reading().kv_cells_kept, 250U);
  const ScoredCall second = admit(repeated("One windy day. ", 80), 100);
  run();
  EXPECT_TRUE(second.heard->completion());
  EXPECT_EQ(runner->reading().kept_evictions, 1U);
  EXPECT_EQ(runner->reading().parks, 0U);
}

TEST_F(RunnerTest, CancelledOnesKeepNothing) {
  ModelOptions options = plain(2);
  options.prefix_reuse = true;
  make(options);
  const ScoredCall call = admit(repeated("Once upon a time. ", 50), 10);
  step();
  EXPECT_GT(runner->reading().kv_cells_in_use, 0U);
  call.request->cancel();
  step();
  EXPECT_EQ(call.heard->error()->code, Code::kCancelled);
  expect_empty();
}

// ---- steps that are stopped ---------------------------------------------------------------------

// Somebody is cancelled in the middle of a decode, at whatever look at the clock. The step is begun
// again without him, and the others say what they would have said.
TEST_F(RunnerTest, StoppedStepChangesNoText) {
  const std::string prompt = repeated("Once upon a time. ", 60);
  const ScoredCall long_text = alone(prompt, 20);
  const ScoredCall short_text = alone(kPrompts[1], 60);
  std::uint64_t aborts = 0;
  for (const bool pool : {false, true}) {
    for (int at = 1; at < 200; at += 9) {
      make(pool ? pooled(4, 1536) : plain(4));
      clock.on_look = {};
      clock.tick = microseconds(1);
      const ScoredCall generates = admit(kPrompts[1], 60);
      for (int i = 0; i < 6; ++i) step();
      const ScoredCall stays = admit(prompt, 20);
      const ScoredCall leaves = admit(prompt + "x", 20);
      clock.tick = milliseconds(3);  // more than kPatience, between any two looks
      clock.on_look = [&, looks = 0]() mutable {
        if (++looks == at) leaves.request->cancel();
      };
      run();
      same += same_but_for_a_tie(long_text, stays) ? 1 : 0;
      same += same_but_for_a_tie(short_text, generates) ? 1 : 0;
      EXPECT_EQ(leaves.heard->ends(), 1);
      aborts += totals.decode_aborts;
      expect_empty();
    }
  }
  EXPECT_GT(aborts, 10U);
}

TEST_F(RunnerTest, StepOfPromptsIsStoppedForAMoreUrgentRequestAndResumes) {
  const std::string prompt = repeated("Once upon a time. ", 70);
  const ScoredCall text = alone(prompt, 20);
  bool waits = false;
  make(plain(2), [&] { return waits ? std::optional<std::int32_t>(1) : std::nullopt; });
  // What a step costs is learned from a slow clock: the end of the next one is far.
  clock.tick = milliseconds(2);
  const ScoredCall slow = admit(prompt, 20);
  step();
  step();
  waits = true;
  step();
  EXPECT_EQ(totals.decode_aborts, 1U);
  EXPECT_EQ(runner->reading().preemptions, 1U);
  EXPECT_EQ(slow.heard->ends(), 0);
  const ScoredCall urgent = admit(kPrompts[1], 3, 1);
  waits = false;
  run();
  EXPECT_LT(urgent.heard->ended_at(), slow.heard->ended_at());
  same += same_but_for_a_tie(text, slow) ? 1 : 0;
  expect_empty();
}

TEST_F(RunnerTest, StepIsNotStoppedForWhoIsNoMoreUrgent) {
  make(plain(2), [] { return std::optional<std::int32_t>(4); });
  clock.tick = milliseconds(2);
  const ScoredCall slow = admit(repeated("Once upon a time. ", 70), 5);
  run();
  EXPECT_EQ(totals.decode_aborts, 0U);
  EXPECT_TRUE(slow.heard->completion());
}

// ---- everything at once -------------------------------------------------------------------------

TEST_F(RunnerTest, FiveHundredRandomCancelsLeaveNothing) {
  std::mt19937 random(9);
  const std::string prefix = repeated("Once upon a time there was a fox. ", 12);
  for (const bool reuse : {false, true}) {
    ModelOptions options = pooled(6, 768, 300'000);
    options.prefix_reuse = reuse;
    clock.on_look = {};
    clock.tick = microseconds(50);
    make(options);
    std::vector<ScoredCall> calls;
    std::vector<std::size_t> there;
    clock.on_look = [&] {
      if (!there.empty() && random() % 40 == 0)
        calls[there[random() % there.size()]].request->cancel();
    };
    for (std::size_t i = 0; i < 250;) {
      const auto level = static_cast<std::int32_t>(random() % 4);
      if (runner->room(level) > 0) {
        const std::string& prompt = kPrompts[random() % kPrompts.size()];
        calls.push_back(admit(random() % 2 == 0 ? prefix + prompt : prompt, 300, level));
        there.push_back(i++);
      }
      step();
      std::erase_if(there, [&](std::size_t call) { return calls[call].heard->ends() > 0; });
      ASSERT_LE(runner->reading().parked_bytes, 300'000U);
    }
    while (runner->running() > 0) {
      for (const std::size_t call : there) calls[call].request->cancel();
      step();
    }
    for (const ScoredCall& call : calls) {
      EXPECT_EQ(call.heard->ends(), 1);
      EXPECT_EQ(call.heard->late_events(), 0);
      EXPECT_TRUE(call.heard->completion() || call.heard->error()->code == Code::kCancelled);
    }
    EXPECT_EQ(runner->reading().kv_cells_in_use, 0U);
    EXPECT_EQ(runner->reading().parked, 0U);
    if (!reuse) expect_empty();
  }
}

}  // namespace
}  // namespace weir::model
