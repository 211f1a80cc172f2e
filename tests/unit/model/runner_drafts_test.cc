// SPDX-License-Identifier: Apache-2.0
//
// Guessed tokens in the steps of the runner, with the shipped model: they change when tokens come,
// not which. Drafts are tried at once here, because the clock says that a step takes the same time
// whatever is in it.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "agent/model/batch_runner.h"
#include "agent/model/grammar.h"
#include "tests/fixtures/stepped_runner.h"
#include "tests/unit/model/recording_listener.h"
#include "tests/unit/model/scored_listener.h"

namespace weir::model {
namespace {

/// The model, kept from ending a story, begins to repeat itself.
void endless(GenerationRequest& request) { request.sampling.logit_bias = {{0, -100}, {2, -100}}; }

const std::string kRefrain = repeated("Tom saw a big red ball. Mia saw a big red ball. ", 6);
const std::vector<std::string> kPrompts = {kRefrain, "Once upon a time",
                                           repeated("One, two, three, four. ", 10),
                                           "The little bear found a box. In the box"};

struct RunnerDraftsTest : SteppedRunnerTest {
  RunnerDraftsTest() { clock.tick = std::chrono::microseconds(100); }
  void make(std::uint32_t sequences, bool drafts, std::optional<std::uint32_t> kv_tokens = {}) {
    ModelOptions options = shipped(sequences);
    options.context_tokens = 512;
    options.kv_tokens = kv_tokens;
    if (drafts) options.max_draft_tokens = 16;
    load(options, {.prefix_reuse = reuse, .max_draft_tokens = options.max_draft_tokens});
  }
  ScoredCall admit(const std::string& prompt, std::uint32_t max_tokens,
                   const std::function<void(GenerationRequest&)>& change = {}) {
    ScoredCall call = scored_call(prompt, max_tokens);
    if (change) change(*call.request);
    admit_request(call.request, level);
    return call;
  }

  std::int32_t level = 4;
  bool reuse = false;
};

TEST_F(RunnerDraftsTest, GreedyTextsAreTheSameInFewerSteps) {
  int the_same = 0;
  for (const std::optional<std::uint32_t> pool : {std::optional<std::uint32_t>{}, {1536U}}) {
    std::vector<ScoredCall> expected;
    make(4, false, pool);
    for (const auto& prompt : kPrompts) expected.push_back(admit(prompt, 300, endless));
    run();
    const std::uint64_t steps_before = totals.decode_steps;
    make(4, true, pool);
    std::vector<ScoredCall> found;
    for (const auto& prompt : kPrompts) found.push_back(admit(prompt, 300, endless));
    run();
    for (std::size_t i = 0; i < found.size(); ++i) {
      the_same += same_but_for_a_tie(expected[i], found[i]) ? 1 : 0;
    }
    const EngineReading reading = runner->reading();
    EXPECT_GT(reading.draft_hits, 20U);
    EXPECT_GT(reading.draft_tokens, reading.draft_hits);  // some were wrong, and left no trace
    EXPECT_LT(totals.decode_steps, steps_before);
    expect_empty();
  }
  EXPECT_GE(the_same, 4);
}

TEST_F(RunnerDraftsTest, WithoutDraftsNothingIsGuessed) {
  make(1, false);
  admit(kRefrain, 100);
  run();
  EXPECT_EQ(runner->reading().draft_tokens, 0U);
}

// The seed decides as it did: drafts take no draws from it.
TEST_F(RunnerDraftsTest, SamplingIsTheSameWithTheSameSeed) {
  int the_same = 0;
  for (const std::uint32_t seed : {7U, 8U, 9U}) {
    const auto sampled = [&](GenerationRequest& request) {
      const auto grammar = Grammar::parse(R"(root ::= ("a ball, " | "a box, "){40})");
      ASSERT_TRUE(grammar.ok());
      request.sampling.grammar = *grammar;
      request.sampling.temperature = 1;
      request.sampling.seed = seed;
      request.sampling.repetition_penalty = 1.02F;
      request.sampling.penalty_window = 64;
    };
    make(1, false);
    const ScoredCall expected = admit("A list: ", 400, sampled);
    run();
    make(1, true);
    const ScoredCall found = admit("A list: ", 400, sampled);
    run();
    EXPECT_GT(runner->reading().draft_hits, 0U);
    EXPECT_EQ(found.heard->completion()->reason, FinishReason::kStop);
    the_same += expected.heard->text() == found.heard->text() ? 1 : 0;
  }
  EXPECT_GE(the_same, 2);  // rounding may decide one of them
}

TEST_F(RunnerDraftsTest, TextsEndWhereTheyWouldInTheMiddleOfWhatWasGuessed) {
  make(1, true);
  (void)admit(kRefrain, 300, endless);
  run();
  ASSERT_GT(runner->reading().draft_hits, 20U);
  // At any number of tokens.
  for (std::uint32_t most = 200; most < 216; ++most) {
    const ScoredCall some = admit(kRefrain, most, endless);
    run();
    EXPECT_EQ(some.heard->completion()->usage.completion_tokens, most);
    EXPECT_EQ(some.heard->completion()->reason, FinishReason::kLength);
    EXPECT_EQ(some.scored->tokens.size(), most);
    expect_empty();
  }
  // At a text, which is not given out, and which is long enough to end among what was guessed.
  const ScoredCall stopped = admit("A list: ", 400, [](GenerationRequest& request) {
    const auto grammar = Grammar::parse(R"(root ::= "a box, " ("one ball, "){40})");
    ASSERT_TRUE(grammar.ok());
    request.sampling.grammar = *grammar;
    request.stop = {repeated("one ball, ", 15)};
  });
  run();
  EXPECT_EQ(stopped.heard->completion()->reason, FinishReason::kStop);
  EXPECT_EQ(stopped.heard->text(), "a box, ");
  expect_empty();
}

TEST_F(RunnerDraftsTest, ContextIsFilledToItsEndAndNoFurther) {
  make(1, true);
  const ScoredCall call = admit(kRefrain, 5000, endless);
  run();
  EXPECT_GT(runner->reading().draft_hits, 50U);
  const Usage usage = call.heard->completion()->usage;
  EXPECT_EQ(call.heard->completion()->reason, FinishReason::kLength);
  EXPECT_EQ(usage.prompt_tokens + usage.completion_tokens, 513U);  // the last one needs no cell
  expect_empty();
}

TEST_F(RunnerDraftsTest, GrammarHoldsInWhatIsGuessed) {
  const auto in_grammar = [](GenerationRequest& request) {
    const auto grammar = Grammar::parse(R"(root ::= ("a ball, " | "a box, "){12})");
    ASSERT_TRUE(grammar.ok());
    request.sampling.grammar = *grammar;
  };
  make(1, false);
  const ScoredCall expected = admit("A list: ", 200, in_grammar);
  run();
  make(1, true);
  const ScoredCall found = admit("A list: ", 200, in_grammar);
  run();
  EXPECT_GT(runner->reading().draft_hits, 5U);
  EXPECT_EQ(found.heard->text(), expected.heard->text());
  EXPECT_EQ(found.heard->completion()->reason, FinishReason::kStop);
}

TEST_F(RunnerDraftsTest, WhatIsKeptForOthersHasNoGuessesInIt) {
  reuse = true;
  make(2, true, 1024);
  const ScoredCall first = admit(kRefrain, 277, endless);
  run();
  ASSERT_GT(runner->reading().draft_hits, 10U);
  const Usage usage = first.heard->completion()->usage;
  EXPECT_EQ(runner->reading().kv_cells_kept, usage.prompt_tokens + usage.completion_tokens - 1);
  EXPECT_EQ(llama_memory_seq_pos_max(runner->model().memory(), 0) + 1,
            static_cast<llama_pos>(runner->reading().kv_cells_kept));
  const ScoredCall second = admit(kRefrain + first.heard->text() + " And", 60);
  run();
  reuse = false;
  make(2, false, 1024);
  const ScoredCall expected = admit(kRefrain + first.heard->text() + " And", 60);
  run();
  (void)same_but_for_a_tie(expected, second);
}

// Cancelled, parked, short of cells, stopped in the middle of a step: whatever comes together.
TEST_F(RunnerDraftsTest, NobodyIsLostWhateverHappensInBetween) {
  std::mt19937 random(4);
  for (const bool keeps : {false, true}) {
    reuse = keeps;
    make(4, true, 700);
    std::vector<ScoredCall> calls;
    std::vector<std::size_t> there;
    clock.on_look = [&] {
      if (!there.empty() && random() % 60 == 0) {
        calls[there[random() % there.size()]].request->cancel();
      }
    };
    for (std::size_t i = 0; i < 120;) {
      level = static_cast<std::int32_t>(random() % 3);
      if (runner->room(level) > 0) {
        calls.push_back(admit(kPrompts[random() % kPrompts.size()], 250));
        there.push_back(i++);
      }
      step();
      std::erase_if(there, [&](std::size_t call) { return calls[call].heard->ends() > 0; });
    }
    clock.on_look = {};
    run();
    for (const ScoredCall& call : calls) {
      EXPECT_EQ(call.heard->ends(), 1);
      EXPECT_EQ(call.heard->late_events(), 0);
      EXPECT_TRUE(call.heard->completion() || call.heard->error()->code == Code::kCancelled);
    }
    const EngineReading reading = runner->reading();
    EXPECT_GT(reading.parks, 0U);
    EXPECT_GT(reading.draft_hits, 0U);
    EXPECT_EQ(reading.kv_cells_in_use, 0U);
    if (!keeps) expect_empty();
  }
}

}  // namespace
}  // namespace weir::model
