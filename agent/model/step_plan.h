// SPDX-License-Identifier: Apache-2.0
//
// Which sequences take part in a step, and with how many tokens. Who generates goes first, with one
// token each; prompts get chunks of the time that is left, in the order of their urgency: level,
// deadline (none last), admission.
//
// The time for prompts. While somebody generates: kPromptShare of what the generating tokens cost,
// so that a token comes within twice its time without prompts; more when more sequences wait in
// their prompts than generate, by their numbers. While nobody does: kAloneStep, or as much as it
// takes for the pass over the weights to be kWorth-th of it, so that large models lose no
// throughput. A prompt that has not begun and would take no more than kWholeShare of the generating
// tokens' time goes in one piece: a pass for each of its pieces would cost more than the one longer
// wait, which comes once for each request. More of them go along, of the same level, as long as
// together they take no more than kWholeShare of what a token of each who generates takes, or, if
// more wait than generate, so many times more of what a token of each who waits takes: to begin to
// generate one by one makes many steps for few tokens, prompts of one length share a pass, and a
// burst costs those few one long gap instead of many a gap each. In a hurry (somebody shall hear of
// the end of this step soon): kShortStep.
//
// A long prompt beside those who generate takes no part in the steps, if it can be computed in a
// context of its own (sliced_prefill.h): it gets a slice of time between two steps, about as long
// as what the generating tokens cost. While it is computed, other long prompts wait, unless they
// are of a higher level: then it waits for them.
//
// Who generates at a lower level pauses while a prompt of a higher level is worked on, but no
// longer than kLongestPause at a time: the caller says who is due.
//
// In every step that is not empty, the most urgent prompt that is not held gets a token at least,
// or all who generate and do not pause do: nothing stands still for ever.
//
// Pure.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "agent/base/clock.h"
#include "agent/model/step_cost.h"

namespace weir::model {

inline constexpr double kPromptShare = 0.75;
inline constexpr double kWholeShare = 8;
/// A slice ends early rather than late, by a node of the graph.
inline constexpr double kSliceShare = 0.9;
/// Fewer tokens are not worth the way into another context and back.
inline constexpr std::size_t kFewestSliced = 64;
inline constexpr Duration kAloneStep = std::chrono::milliseconds(6);
inline constexpr Duration kShortStep = std::chrono::milliseconds(3);
inline constexpr Duration kLongestPause = std::chrono::milliseconds(250);
inline constexpr std::size_t kWorth = 16;
/// Fewer are not worth a pass, unless no more are left: nor are those that take less time than the
/// pass itself, up to kMostFewest.
inline constexpr std::size_t kFewestPromptTokens = 4;
inline constexpr std::size_t kMostFewest = 32;
/// Of a chunk while nothing is known about the cost.
inline constexpr std::size_t kFirstPromptTokens = 32;

/// Where a sequence stands among others. The smaller is the more urgent.
struct Urgency {
  std::int32_t level = 0;
  TimePoint deadline = TimePoint::max();  ///< max(): none
  std::uint64_t admission = 0;

  friend bool operator<(const Urgency& a, const Urgency& b) {
    return std::tie(a.level, a.deadline, a.admission) < std::tie(b.level, b.deadline, b.admission);
  }
};

/// One sequence that could take part.
struct PlanItem {
  std::size_t slot = 0;
  Urgency urgency;
  std::size_t position = 0;  ///< tokens decoded
  std::size_t left = 0;      ///< tokens to decode before the next one is sampled; >= 1
  bool begun = false;        ///< some of it has been computed
  bool generates = false;    ///< past its prompt: left is 1
  bool held = false;         ///< takes no part: another one computes what both begin with
  bool due = false;          ///< has paused for long enough
  bool sliced = false;       ///< takes no part: is being computed in slices
  bool in_chunks = false;    ///< must not be computed in slices
};

struct PlanLimits {
  std::size_t tokens = 0;  ///< of the step; >= the number of sequences
  bool hurry = false;
  std::size_t longest_sliced = 0;  ///< tokens of a sequence that can be computed in slices now
};

struct StepPlan {
  struct Part {
    std::size_t slot = 0;
    std::size_t tokens = 0;
    bool generates = false;
  };
  std::vector<Part> parts;           ///< in the order of the batch
  std::vector<std::size_t> pausing;  ///< slots of those that could generate
  StepShape shape;
  std::optional<std::uint64_t> sliced;  ///< admission of the prompt to begin with in slices
  Duration slice{};                     ///< between this step and the next; zero: none
};

[[nodiscard]] StepPlan plan_step(std::span<const PlanItem> items, const StepCost& cost,
                                 const PlanLimits& limits);

}  // namespace weir::model
