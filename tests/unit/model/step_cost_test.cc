// SPDX-License-Identifier: Apache-2.0
#include "agent/model/step_cost.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

namespace weir::model {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::milliseconds;

/// A machine that follows a law exactly.
struct Machine {
  double decode_token = 5000, decode_pass = 15'000, decode_position = 2;
  double prompt_token = 1000, prompt_pass = 6000, prompt_position = 0.5;

  Duration takes(const StepShape& shape) const {
    double us = 0;
    if (shape.decode_tokens > 0) {
      us += decode_pass + decode_token * static_cast<double>(shape.decode_tokens) +
            decode_position * static_cast<double>(shape.decode_positions);
    }
    us += prompt_pass * static_cast<double>(shape.prompt_chunks) +
          prompt_token * static_cast<double>(shape.prompt_tokens) +
          prompt_position * static_cast<double>(shape.prompt_positions);
    return duration_cast<Duration>(std::chrono::duration<double, std::micro>(us));
  }
};

StepShape decode(std::size_t tokens, std::size_t position) {
  return {.decode_tokens = tokens, .decode_positions = tokens * position};
}

StepShape chunk(std::size_t tokens, std::size_t position) {
  return {.prompt_chunks = 1,
          .prompt_tokens = tokens,
          .prompt_positions = tokens * position + tokens * tokens / 2};
}

StepShape both(const StepShape& a, const StepShape& b) {
  return {a.decode_tokens, a.decode_positions, b.prompt_chunks, b.prompt_tokens,
          b.prompt_positions};
}

double ratio(Duration a, Duration b) {
  return static_cast<double>(a.count()) / static_cast<double>(b.count());
}

TEST(StepCost, KnowsNothingAtFirst) {
  const StepCost cost;
  EXPECT_EQ(cost.decodes(decode(1, 0)), std::nullopt);
  EXPECT_EQ(cost.prompts(chunk(1, 0)), std::nullopt);
  EXPECT_EQ(cost.chunk_within(milliseconds(5), 0), std::nullopt);
  EXPECT_EQ(cost.chunk_worth(16), std::nullopt);
  EXPECT_EQ(cost.step(both(decode(1, 0), chunk(1, 0))), Duration::zero());
}

TEST(StepCost, OneSampleIsPutDownToTheTokens) {
  StepCost cost;
  cost.learn(chunk(32, 0), milliseconds(32));
  EXPECT_EQ(cost.chunk_within(milliseconds(10), 0), 10U);
  // Nothing is known about decodes: what took how long in this one cannot be told.
  cost.learn(both(decode(1, 0), chunk(32, 0)), milliseconds(500));
  EXPECT_EQ(cost.decodes(decode(1, 0)), std::nullopt);
  EXPECT_EQ(cost.chunk_within(milliseconds(10), 0), 10U);
}

TEST(StepCost, LearnsTheLawOfAMachineFromMixedSteps) {
  const Machine machine;
  std::mt19937 random(1);
  const auto upto = [&](std::size_t most) { return 1 + random() % most; };
  StepCost cost;
  for (int i = 0; i < 400; ++i) {
    const StepShape generating = decode(upto(16), upto(2000));
    const StepShape prompt = chunk(upto(128), upto(2000));
    const StepShape shape = i % 3 == 0   ? generating
                            : i % 3 == 1 ? prompt
                                         : both(generating, prompt);
    cost.learn(shape, machine.takes(shape));
  }
  for (int i = 0; i < 100; ++i) {
    const StepShape generating = decode(upto(16), upto(2000));
    const StepShape prompt = chunk(upto(128), upto(2000));
    EXPECT_NEAR(ratio(*cost.decodes(generating), machine.takes(generating)), 1, 0.05);
    EXPECT_NEAR(ratio(*cost.prompts(prompt), machine.takes(prompt)), 1, 0.05);
    EXPECT_NEAR(ratio(cost.step(both(generating, prompt)), machine.takes(both(generating, prompt))),
                1, 0.05);
  }
}

TEST(StepCost, ChunkWithinABudgetTakesNoLongerAndOneMoreWould) {
  const Machine machine;
  std::mt19937 random(2);
  StepCost cost;
  for (int i = 0; i < 300; ++i) {
    const StepShape shape = chunk(1 + random() % 128, random() % 4000);
    cost.learn(shape, machine.takes(shape));
  }
  for (const std::size_t position : {0U, 500U, 4000U}) {
    for (const Duration budget : {milliseconds(10), milliseconds(40), milliseconds(200)}) {
      const std::size_t tokens = *cost.chunk_within(budget, position);
      EXPECT_LE(*cost.prompts(chunk(tokens, position)), budget + microseconds(50));
      EXPECT_GT(*cost.prompts(chunk(tokens + 2, position)), budget);
    }
  }
  EXPECT_EQ(cost.chunk_within(microseconds(100), 0), 0U);
  EXPECT_GT(*cost.chunk_within(milliseconds(40), 0), *cost.chunk_within(milliseconds(40), 4000));
  // 15 times 6 ms at 1 ms a token.
  EXPECT_NEAR(static_cast<double>(*cost.chunk_worth(16)), 90, 9);
}

TEST(StepCost, OneHiccupMovesLittleAndALastingChangeIsBelieved) {
  Machine machine;
  StepCost cost;
  for (std::size_t i = 0; i < 50; ++i) cost.learn(decode(4, i), machine.takes(decode(4, i)));
  const Duration before = *cost.decodes(decode(4, 50));
  cost.learn(decode(4, 50), 100 * before);
  EXPECT_LT(ratio(*cost.decodes(decode(4, 50)), before), 1.1);
  // Three times as slow from now on.
  for (std::size_t i = 0; i < 80; ++i) {
    cost.learn(decode(4, 50 + i), 3 * machine.takes(decode(4, 50 + i)));
  }
  EXPECT_NEAR(ratio(*cost.decodes(decode(4, 130)), 3 * machine.takes(decode(4, 130))), 1, 0.1);
}

TEST(StepCost, IsNeverNegativeWhateverItIsTold) {
  std::mt19937 random(3);
  StepCost cost;
  for (int i = 0; i < 2000; ++i) {
    const StepShape shape =
        both(decode(random() % 3, random() % 5000),
             random() % 2 == 0 ? chunk(1 + random() % 512, random() % 5000) : StepShape{});
    cost.learn(shape, microseconds(random() % 100'000));
    const StepShape asked = both(decode(random() % 64, random() % 50'000),
                                 chunk(1 + random() % 512, random() % 50'000));
    EXPECT_GE(cost.step(asked), Duration::zero());
    EXPECT_LT(cost.step(asked), std::chrono::hours(1));
    if (const auto tokens = cost.chunk_within(milliseconds(random() % 1000), random() % 5000)) {
      EXPECT_LE(*tokens, 1'000'000'000U);
    }
  }
}

}  // namespace
}  // namespace weir::model
