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
  Duration together{};             ///< for several that are not split
};

/// What a token of each would cost of those who generate, or of those who wait to if they are more.
std::optional<Duration> tokens_of_most(const StepCost& cost, const StepShape& generating,
                                       const Prompts& prompts) {
  if (generating.decode_tokens >= prompts.size()) return cost.decodes(generating);
  StepShape then{.decode_tokens = prompts.size()};
  for (const PlanItem* item : prompts) then.decode_positions += item->position + item->left;
  return cost.decodes(then);
}

PromptTime prompt_time(const StepCost& cost, const StepShape& generating, const Prompts& prompts,
                       bool hurry) {
  if (hurry) return {.budget = kShortStep};
  const Duration alone = alone_budget(cost, prompts.front()->position);
  const Duration share =
      scaled(tokens_of_most(cost, generating, prompts).value_or(Duration::zero()), kWholeShare);
  if (generating.decode_tokens == 0) {
    return {.budget = alone, .whole = alone, .together = std::max(alone, share)};
  }
  const auto decodes = cost.decodes(generating);
  if (!decodes) return {};
  const double numbers =
      static_cast<double>(prompts.size()) / static_cast<double>(generating.decode_tokens);
  return {.budget = std::min(scaled(*decodes, std::max(kPromptShare, numbers)), alone),
          .whole = std::min(share, alone),
          .together = scaled(share, std::max(1.0, numbers))};
}

StepShape with_chunk(const StepPlan& plan, const PlanItem& item, std::size_t tokens) {
  StepShape shape = plan.shape;
  // libllama decodes what is equally long together; of the rest each length costs a pass.
  const bool another_pass = std::none_of(
      plan.parts.begin(), plan.parts.end(),
      [&](const StepPlan::Part& part) { return !part.generates && part.tokens == tokens; });
  shape.prompt_chunks += another_pass ? 1U : 0U;
  shape.prompt_tokens += tokens;
  shape.prompt_positions += tokens * item.position + tokens * tokens / 2;
  return shape;
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
  const auto [budget, whole, together] = prompt_time(cost, plan.shape, prompts, limits.hurry);
  const std::size_t fewest = fewest_tokens(cost, limits.hurry);
  const std::size_t room = limits.tokens - plan.shape.decode_tokens;
  bool all_whole = true;
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
      const bool along = all_whole && most == item->left &&
                         item->urgency.level == prompts.front()->urgency.level &&
                         cost.prompts(with_chunk(plan, *item, most)) <= together;
      if (!first && !along) return;  // in the next step
      tokens = most;
    }
    if (first) tokens = std::max(tokens, fewest);
    if (tokens < std::min(fewest, most)) return;
    tokens = std::min(tokens, most);
    // A pass for the very last token costs more than the token.
    if (item->left > tokens && item->left - tokens < kFewestPromptTokens && item->left <= most) {
      tokens = item->left;
    }
    all_whole = all_whole && tokens == item->left;
    plan.shape = with_chunk(plan, *item, tokens);
    plan.parts.push_back({item->slot, tokens, false});
  }
}

/// Whether it would come in chunks.
bool is_long(const PlanItem& item, const StepCost& cost, Duration whole) {
  const auto tokens = cost.chunk_within(whole, item.position);
  return tokens && item.left > std::max(*tokens, kFewestSliced);
}

/// The prompt that is computed in slices, or begins to be. Takes out of `prompts`, which are in
/// order, all that take no part because of it.
const PlanItem* take_sliced(const PlanItem* running, const StepCost& cost, const PlanLimits& limits,
                            Prompts& prompts, StepPlan& plan) {
  if (running == nullptr && (limits.longest_sliced == 0 || plan.shape.decode_tokens == 0)) {
    return nullptr;
  }
  if (prompts.empty() || !cost.decodes(plan.shape)) return running;
  const Duration whole = prompt_time(cost, plan.shape, prompts, /*hurry=*/false).whole;
  const PlanItem* sliced = running;
  std::erase_if(prompts, [&](const PlanItem* item) {
    if (!is_long(*item, cost, whole)) return false;
    if (sliced != nullptr) return item->urgency.level >= sliced->urgency.level;
    if (item->in_chunks || item->position + item->left > limits.longest_sliced) return false;
    sliced = item;
    plan.sliced = item->urgency.admission;
    return true;
  });
  return sliced;
}

/// Until the next step, for the prompt that is computed in slices.
Duration slice_time(const PlanItem& sliced, std::size_t prompts, const Prompts& others,
                    const StepCost& cost, bool hurry, const StepPlan& plan) {
  const bool yields = plan.shape.prompt_tokens > 0 && !others.empty() &&
                      others.front()->urgency.level < sliced.urgency.level;
  if (yields) return Duration::zero();
  if (hurry) return kShortStep;
  const auto decodes = cost.decodes(plan.shape);
  if (plan.shape.decode_tokens == 0 || !decodes) return kAloneStep;
  const double numbers =
      static_cast<double>(prompts) / static_cast<double>(plan.shape.decode_tokens);
  const Duration spent = cost.prompts(plan.shape).value_or(Duration::zero());
  return std::max(kShortStep, scaled(*decodes, std::max(kSliceShare, numbers)) - spent);
}

}  // namespace

StepPlan plan_step(std::span<const PlanItem> items, const StepCost& cost,
                   const PlanLimits& limits) {
  Prompts prompts;
  const PlanItem* running = nullptr;                                // in slices
  std::int32_t highest = std::numeric_limits<std::int32_t>::max();  // level of a prompt
  for (const PlanItem& item : items) {
    if (item.generates || item.held) continue;
    highest = std::min(highest, item.urgency.level);
    if (item.sliced) {
      running = &item;
    } else {
      prompts.push_back(&item);
    }
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
  const std::size_t all_prompts = prompts.size() + (running != nullptr ? 1 : 0);
  const PlanItem* const sliced = take_sliced(running, cost, limits, prompts, plan);
  if (!prompts.empty() && plan.shape.decode_tokens < limits.tokens) {
    add_prompts(prompts, cost, limits, plan);
  }
  if (sliced != nullptr) {
    plan.slice = slice_time(*sliced, all_prompts, prompts, cost, limits.hurry, plan);
  }
  return plan;
}

}  // namespace weir::model
