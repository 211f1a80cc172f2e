// SPDX-License-Identifier: Apache-2.0
#include "agent/model/step_plan.h"

#include <algorithm>
#include <limits>

namespace weir::model {

namespace {

using Prompts = std::vector<const PlanItem*>;

Duration scaled(Duration duration, double factor) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double, std::nano>(static_cast<double>(duration.count()) * factor));
}

/// What a step without generating sequences may take.
Duration alone_budget(const StepCost& cost, std::size_t position) {
  const std::size_t worth = cost.chunk_worth(kWorth).value_or(0);
  const StepShape chunk{.prompt_chunks = 1,
                        .prompt_tokens = worth,
                        .prompt_positions = worth * position + worth * worth / 2};
  return std::max(kAloneStep, cost.prompts(chunk).value_or(kAloneStep));
}

struct PromptTime {
  std::optional<Duration> budget;  ///< unset: nothing is known yet
  Duration whole{};                ///< for one that is not split
};

PromptTime prompt_time(const StepCost& cost, const StepShape& generating, const Prompts& prompts,
                       bool hurry) {
  if (hurry) return {.budget = kShortStep};
  const Duration alone = alone_budget(cost, prompts.front()->position);
  if (generating.decode_tokens == 0) return {.budget = alone, .whole = alone};
  const auto decodes = cost.decodes(generating);
  if (!decodes) return {};
  const double numbers =
      static_cast<double>(prompts.size()) / static_cast<double>(generating.decode_tokens);
  return {.budget = std::min(scaled(*decodes, std::max(kPromptShare, numbers)), alone),
          .whole = std::min(scaled(*decodes, kWholeShare), alone)};
}

void add_chunk(const PlanItem& item, std::size_t tokens, StepPlan& plan) {
  plan.parts.push_back({item.slot, tokens, false});
  ++plan.shape.prompt_chunks;
  plan.shape.prompt_tokens += tokens;
  plan.shape.prompt_positions += tokens * item.position + tokens * tokens / 2;
}

bool goes_whole(const PlanItem& item, const StepCost& cost, Duration most) {
  const auto tokens = item.begun ? std::nullopt : cost.chunk_within(most, item.position);
  return tokens && item.left <= *tokens;
}

std::size_t fewest_tokens(const StepCost& cost, bool hurry) {
  if (hurry) return kFewestPromptTokens;
  return std::clamp(cost.chunk_worth(2).value_or(0), kFewestPromptTokens, kMostFewest);
}

void add_prompts(const Prompts& prompts, const StepCost& cost, const PlanLimits& limits,
                 StepPlan& plan) {
  const auto [budget, whole] = prompt_time(cost, plan.shape, prompts, limits.hurry);
  const std::size_t fewest = fewest_tokens(cost, limits.hurry);
  const std::size_t room = limits.tokens - plan.shape.decode_tokens;
  for (const PlanItem* item : prompts) {
    const bool first = plan.shape.prompt_chunks == 0;
    const std::size_t most = std::min(item->left, room - plan.shape.prompt_tokens);
    if (most == 0) return;
    std::size_t tokens = 0;
    const auto spent = cost.prompts(plan.shape);
    if (budget && spent) {
      const Duration left = *budget - (first ? Duration::zero() : *spent);
      tokens = left > Duration::zero() ? cost.chunk_within(left, item->position).value_or(0) : 0;
    } else {
      tokens = kFirstPromptTokens - std::min(kFirstPromptTokens, plan.shape.prompt_tokens);
    }
    if (tokens < most && goes_whole(*item, cost, whole)) {
      if (!first) return;  // in the next step
      tokens = most;
    }
    if (first) tokens = std::max(tokens, fewest);
    if (tokens < std::min(fewest, most)) return;
    tokens = std::min(tokens, most);
    // A pass for the very last token costs more than the token.
    if (item->left > tokens && item->left - tokens < kFewestPromptTokens && item->left <= most) {
      tokens = item->left;
    }
    add_chunk(*item, tokens, plan);
  }
}

}  // namespace

StepPlan plan_step(std::span<const PlanItem> items, const StepCost& cost,
                   const PlanLimits& limits) {
  Prompts prompts;
  std::int32_t highest = std::numeric_limits<std::int32_t>::max();  // level of a prompt
  for (const PlanItem& item : items) {
    if (item.generates || item.held) continue;
    prompts.push_back(&item);
    highest = std::min(highest, item.urgency.level);
  }
  std::sort(prompts.begin(), prompts.end(),
            [](const PlanItem* a, const PlanItem* b) { return a->urgency < b->urgency; });
  StepPlan plan;
  for (const PlanItem& item : items) {
    if (!item.generates) continue;
    if (item.urgency.level > highest && !item.due) {
      plan.pausing.push_back(item.slot);
      continue;
    }
    plan.parts.push_back({item.slot, 1, true});
    ++plan.shape.decode_tokens;
    plan.shape.decode_positions += item.position;
  }
  if (!prompts.empty() && plan.shape.decode_tokens < limits.tokens) {
    add_prompts(prompts, cost, limits, plan);
  }
  return plan;
}

}  // namespace weir::model
