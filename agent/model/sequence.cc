// SPDX-License-Identifier: Apache-2.0
#include "agent/model/sequence.h"

#include <utility>

namespace weir::model {

Result<Slot> Sequence::create(Taken& taken, const Vocabulary& vocabulary, std::uint64_t admission) {
  const GenerationRequest& request = *taken.request;
  if (request.max_tokens == 0) {
    return make_error(Code::kInvalidArgument, "max_tokens must be >= 1, not 0");
  }
  auto sampler = Sampler::create(request.sampling, vocabulary, taken.prompt);
  if (!sampler) {
    return std::move(sampler).error();
  }
  TextAssembler text(request.stop);
  auto prompt = std::exchange(taken.prompt, {});
  const Urgency urgency{taken.level, request.deadline.value_or(TimePoint::max()), admission};
  const std::size_t prompt_tokens = prompt.size();
  return std::make_unique<Sequence>(Sequence{.taken = std::move(taken),
                                             .urgency = urgency,
                                             .first_token = std::nullopt,
                                             .tokens = std::move(prompt),
                                             .prompt_tokens = prompt_tokens,
                                             .sampler = std::move(*sampler),
                                             .text = std::move(text),
                                             .logprobs = {},
                                             .leader = std::nullopt,
                                             .paused_since = std::nullopt,
                                             .logits_at = std::nullopt});
}

}  // namespace weir::model
