// SPDX-License-Identifier: Apache-2.0
#include "agent/model/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>

namespace weir::model {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::IsEmpty;

PlanItem generating(std::size_t slot, std::int32_t level = 4) {
  return {.slot = slot,
          .urgency = {level, TimePoint::max(), slot},
          .position = 100,
          .left = 1,
          .generates = true};
}

PlanItem prompt(std::size_t slot, std::size_t left, std::int32_t level = 4) {
  return {.slot = slot, .urgency = {level, TimePoint::max(), slot}, .position = 0, .left = left};
}

/// 10 ms for a generating token, and for prompts 1 ms a token and `pass` a chunk.
StepCost learned(Duration pass = Duration::zero()) {
  StepCost cost;
  std::mt19937 random(1);
  for (std::size_t i = 1; i < 100; ++i) {
    const std::size_t tokens = 1 + random() % 64;
    cost.learn({.decode_tokens = 1 + i % 4}, milliseconds(10) * static_cast<int>(1 + i % 4));
    cost.learn({.prompt_chunks = 1, .prompt_tokens = tokens},
               milliseconds(1) * static_cast<int>(tokens) + pass);
  }
  return cost;
}

std::vector<std::size_t> slots(const StepPlan& plan) {
  std::vector<std::size_t> found;
  for (const auto& part : plan.parts) found.push_back(part.slot);
  return found;
}

std::size_t tokens_of(const StepPlan& plan, std::size_t slot) {
  for (const auto& part : plan.parts) {
    if (part.slot == slot) return part.tokens;
  }
  return 0;
}

constexpr PlanLimits kLimits{.tokens = 512};

TEST(StepPlan, NothingComesOfNothing) {
  EXPECT_THAT(plan_step({}, StepCost{}, kLimits).parts, IsEmpty());
  PlanItem held = prompt(0, 10);
  held.held = true;
  EXPECT_THAT(plan_step(std::vector{held}, StepCost{}, kLimits).parts, IsEmpty());
}

TEST(StepPlan, ChunkGetsItsShareOfTheTimeOfThoseWhoGenerate) {
  const std::vector items{generating(0), generating(1), generating(2), generating(3),
                          prompt(4, 1500)};
  const StepPlan plan = plan_step(items, learned(milliseconds(6)), kLimits);
  EXPECT_THAT(slots(plan), ElementsAre(0, 1, 2, 3, 4));
  // 0.75 of 40 ms, less the pass of 6.
  EXPECT_NEAR(static_cast<double>(tokens_of(plan, 4)), 24, 2);
}

TEST(StepPlan, ShortPromptGoesInOnePieceUnlessItHasBegun) {
  std::vector items{generating(0), generating(1), prompt(2, 64)};
  const StepCost cost = learned(milliseconds(6));
  // As much as it would get alone: 96 ms.
  EXPECT_EQ(tokens_of(plan_step(items, cost, kLimits), 2), 64U);
  items[2].begun = true;
  EXPECT_NEAR(static_cast<double>(tokens_of(plan_step(items, cost, kLimits), 2)), 9, 2);
  items[2].begun = false;
  items[2].left = 120;
  EXPECT_NEAR(static_cast<double>(tokens_of(plan_step(items, cost, kLimits), 2)), 9, 2);
  const StepPlan hurried = plan_step(items, cost, {.tokens = 512, .hurry = true});
  EXPECT_EQ(tokens_of(hurried, 2), kFewestPromptTokens);
}

TEST(StepPlan, WholePromptsOfOneLevelGoTogetherWithinEightTokensOfThoseWhoGenerate) {
  std::vector items{generating(0), generating(1), generating(2),
                    prompt(3, 64), prompt(4, 64), prompt(5, 64)};
  const StepCost cost = learned(milliseconds(6));
  // 240 ms, for a token of three: 198 of them in one pass.
  const StepPlan all = plan_step(items, cost, kLimits);
  EXPECT_THAT(slots(all), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(all.shape.prompt_chunks, 1U);
  // Of other lengths they take a pass each, and 30 ms more.
  items[4].left = 74;
  items[5].left = 84;
  const StepPlan some = plan_step(items, cost, kLimits);
  EXPECT_THAT(slots(some), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(some.shape.prompt_chunks, 2U);
  // Nobody waits for one of a lower level, or takes another one's chunk for leave.
  items[4].urgency.level = 5;
  EXPECT_THAT(slots(plan_step(items, cost, kLimits)), ElementsAre(0, 1, 2, 3, 5));
  items[3].begun = true;
  EXPECT_THAT(slots(plan_step(items, cost, kLimits)), ElementsAre(0, 1, 2, 3));
}

TEST(StepPlan, TheMoreWaitForEachWhoGeneratesTheMoreGoTogether) {
  const StepCost cost = learned(milliseconds(6));
  std::vector<PlanItem> items;
  for (std::size_t slot = 0; slot < 4; ++slot) items.push_back(generating(slot));
  for (std::size_t slot = 4; slot < 8; ++slot) items.push_back(prompt(slot, 90));
  // 320 ms, for a token of four, and 366 for the four prompts.
  EXPECT_THAT(slots(plan_step(items, cost, kLimits)), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  // Four wait for each: four times as much.
  items.erase(items.begin() + 1, items.begin() + 4);
  EXPECT_THAT(slots(plan_step(items, cost, kLimits)), ElementsAre(0, 4, 5, 6, 7));
}

TEST(StepPlan, ChunkTakesNoLessTimeThanItsPass) {
  const std::vector items{generating(0), prompt(1, 1500)};
  // 0.75 of 10 ms would not even pay for the pass.
  const StepPlan plan = plan_step(items, learned(milliseconds(20)), kLimits);
  EXPECT_NEAR(static_cast<double>(tokens_of(plan, 1)), 20, 2);
  const StepPlan large = plan_step(items, learned(milliseconds(200)), kLimits);
  EXPECT_EQ(tokens_of(large, 1), kMostFewest);
}

TEST(StepPlan, ChunkAloneGrowsUntilThePassIsASixteenthOfIt) {
  const StepPlan small = plan_step(std::vector{prompt(0, 1500)}, learned(), kLimits);
  EXPECT_NEAR(static_cast<double>(small.shape.prompt_tokens), 6, 1);  // kAloneStep
  const StepPlan large = plan_step(std::vector{prompt(0, 1500)}, learned(milliseconds(6)), kLimits);
  EXPECT_NEAR(static_cast<double>(large.shape.prompt_tokens), 90, 9);
}

TEST(StepPlan, PromptsInTheMajorityGetMore) {
  std::vector items{generating(0)};
  const StepCost cost = learned(milliseconds(6));
  for (std::size_t slot = 1; slot <= 4; ++slot) {
    items.push_back(prompt(slot, 17));
    items.back().begun = true;
  }
  const StepPlan plan = plan_step(items, cost, kLimits);
  // 40 ms for four against one that takes 10: two chunks, with one pass as they are equally long.
  EXPECT_THAT(slots(plan), ElementsAre(0, 1, 2));
  EXPECT_LE(*cost.prompts(plan.shape), milliseconds(44));
}

TEST(StepPlan, UrgencyIsLevelThenDeadlineThenAdmission) {
  std::vector items{prompt(0, 1), prompt(1, 1), prompt(2, 1), prompt(3, 1)};
  items[3].urgency.level = 2;
  items[2].urgency.deadline = TimePoint{} + milliseconds(2);
  items[1].urgency.deadline = TimePoint{} + milliseconds(3);
  EXPECT_THAT(slots(plan_step(items, learned(), kLimits)), ElementsAre(3, 2, 1, 0));
}

TEST(StepPlan, LowerLevelsPauseWhileAMoreUrgentPromptIsReadUnlessTheyAreDue) {
  std::vector items{generating(0, 6), generating(1, 2), generating(2, 6), prompt(3, 400, 2)};
  items[2].due = true;
  const StepPlan plan = plan_step(items, learned(), kLimits);
  EXPECT_THAT(slots(plan), ElementsAre(1, 2, 3));
  EXPECT_THAT(plan.pausing, ElementsAre(0));
  items[3].held = true;  // not worked on: nobody pauses for it
  EXPECT_THAT(slots(plan_step(items, learned(), kLimits)), ElementsAre(0, 1, 2));
}

TEST(StepPlan, InAHurryStepsAreShort) {
  const StepPlan plan = plan_step(std::vector{prompt(0, 1500), prompt(1, 1500)}, learned(),
                                  {.tokens = 512, .hurry = true});
  EXPECT_THAT(slots(plan), ElementsAre(0));
  EXPECT_EQ(plan.shape.prompt_tokens, kFewestPromptTokens);  // 3 ms would be 3 tokens
}

TEST(StepPlan, FirstStepsAreSmallWhileNothingIsKnown) {
  const StepPlan plan = plan_step(std::vector{prompt(0, 20), prompt(1, 1500)}, StepCost{}, kLimits);
  EXPECT_EQ(plan.shape.prompt_tokens, kFirstPromptTokens);
}

TEST(StepPlan, LongPromptBesideThoseWhoGenerateIsForSlices) {
  std::vector items{generating(0), generating(1), prompt(2, 1500), prompt(3, 1500), prompt(4, 20)};
  const StepCost cost = learned(milliseconds(6));
  const PlanLimits limits{.tokens = 512, .longest_sliced = 2048};
  const StepPlan plan = plan_step(items, cost, limits);
  EXPECT_EQ(plan.sliced, 2U);
  EXPECT_THAT(slots(plan), ElementsAre(0, 1, 4));  // the other long one waits
  // 1.5 times 20 ms, as there are three prompts and two others, less the short prompt's 26 ms.
  EXPECT_NEAR(std::chrono::duration<double>(plan.slice).count(), 0.004, 0.002);
  items[2].in_chunks = true;
  EXPECT_EQ(plan_step(items, cost, limits).sliced, 3U);
  items[2].in_chunks = false;
  items.pop_back();
  items.pop_back();
  EXPECT_NEAR(std::chrono::duration<double>(plan_step(items, cost, limits).slice).count(), 0.018,
              0.001);
  items[2].left = 60;
  EXPECT_FALSE(plan_step(items, cost, limits).sliced);
}

TEST(StepPlan, NoPromptIsForSlicesWithoutThoseWhoWouldWait) {
  const StepCost cost = learned(milliseconds(6));
  const auto sliced = [&](const std::vector<PlanItem>& items, std::size_t longest) {
    const StepPlan plan = plan_step(items, cost, {.tokens = 512, .longest_sliced = longest});
    EXPECT_EQ(plan.slice > Duration::zero(), plan.sliced.has_value());
    return plan.sliced;
  };
  EXPECT_TRUE(sliced({generating(0), prompt(1, 1500)}, 1500));
  EXPECT_FALSE(sliced({generating(0), prompt(1, 1501)}, 1500));
  EXPECT_FALSE(sliced({generating(0), prompt(1, 1500)}, 0));
  EXPECT_FALSE(sliced({prompt(0, 1500), prompt(1, 1500)}, 2048));
  EXPECT_FALSE(plan_step(std::vector{generating(0), prompt(1, 1500)}, StepCost{},
                         {.tokens = 512, .longest_sliced = 2048})
                   .sliced);
}

TEST(StepPlan, PromptInSlicesYieldsToHigherLevelsAlone) {
  const StepCost cost = learned(milliseconds(6));
  std::vector items{generating(0), prompt(1, 1500), prompt(2, 1500)};
  items[1].sliced = true;
  StepPlan plan = plan_step(items, cost, kLimits);
  EXPECT_THAT(slots(plan), ElementsAre(0));
  EXPECT_NEAR(std::chrono::duration<double>(plan.slice).count(), 0.020, 0.001);  // two to one
  items[2].urgency.level = 1;
  items[0].urgency.level = 1;
  plan = plan_step(items, cost, kLimits);
  EXPECT_THAT(slots(plan), ElementsAre(0, 2));
  EXPECT_EQ(plan.slice, Duration::zero());
  // Nobody else is there, or all pause.
  EXPECT_EQ(plan_step(std::vector{items[1]}, cost, kLimits).slice, kAloneStep);
  items[0].urgency.level = 6;
  items.pop_back();
  plan = plan_step(items, cost, kLimits);
  EXPECT_THAT(plan.parts, IsEmpty());
  EXPECT_THAT(plan.pausing, ElementsAre(0));
  EXPECT_EQ(plan.slice, kAloneStep);
}

// Whatever there is and whatever is known: the plan is one that can be decoded, and every sequence
// comes to its end.
TEST(StepPlan, EveryPlanIsSoundAndEverythingEnds) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    StepCost cost;
    const std::size_t sequences = 1 + random() % 20;
    const PlanLimits limits{.tokens = sequences + random() % 64, .hurry = random() % 4 == 0};
    std::map<std::size_t, PlanItem> all;
    std::map<std::size_t, std::size_t> to_generate;
    std::map<std::size_t, int> paused;
    for (std::size_t slot = 0; slot < sequences; ++slot) {
      all[slot] = prompt(slot, 1 + random() % 200, static_cast<std::int32_t>(random() % 3));
      to_generate[slot] = random() % 20;
    }
    int steps = 0;
    for (; !all.empty() && steps < 20'000; ++steps) {
      std::vector<PlanItem> items;
      for (auto& [slot, item] : all) {
        item.due = paused[slot] >= 3;
        items.push_back(item);
      }
      const StepPlan plan = plan_step(items, cost, limits);
      ASSERT_FALSE(plan.parts.empty());
      std::size_t total = 0;
      bool prompts_began = false;
      for (const std::size_t slot : plan.pausing) ++paused[slot];
      for (const auto& [slot, tokens, generates] : plan.parts) {
        PlanItem& item = all.at(slot);
        ASSERT_GE(tokens, 1U);
        ASSERT_LE(tokens, item.left);
        ASSERT_EQ(generates, item.generates);
        ASSERT_FALSE(generates && prompts_began);
        prompts_began = !generates;
        total += tokens;
        paused[slot] = 0;
        item.position += tokens;
        item.left -= tokens;
        item.begun = true;
        if (item.left == 0) {
          item.generates = true;
          item.left = 1;
          if (to_generate[slot]-- == 0) all.erase(slot);
        }
      }
      ASSERT_LE(total, limits.tokens);
      ASSERT_EQ(total, plan.shape.decode_tokens + plan.shape.prompt_tokens);
      cost.learn(plan.shape, microseconds(random() % 5000));
    }
    EXPECT_TRUE(all.empty());
  }
}

}  // namespace
}  // namespace weir::model
