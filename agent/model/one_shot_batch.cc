// SPDX-License-Identifier: Apache-2.0
#include "agent/model/one_shot_batch.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

namespace weir::model {

std::uint32_t tokens_of(std::string_view text) {
  return static_cast<std::uint32_t>(
      std::min<std::size_t>((text.size() + 3) / 4, std::numeric_limits<std::uint32_t>::max()));
}

Error cancelled_error() { return make_error(Code::kCancelled, "the request was cancelled"); }
Error late_error() { return make_error(Code::kResourceExhausted, "the deadline has passed"); }
Error stopping_error() { return make_error(Code::kUnavailable, "the agent is stopping"); }

OneShotBatch::OneShotBatch(std::size_t largest) {
  members_.reserve(largest);
  jobs_.reserve(largest);
}

void OneShotBatch::execute(schedule::BatchExecutor& executor, std::size_t instance,
                           const Clock& clock) {
  for (const Member& member : members_) {
    jobs_.push_back({.input = member.request->prompt, .output = {}, .error = std::nullopt});
  }
  started_ = clock.now();
  executor.execute(instance, jobs_);
  ended_ = clock.now();
}

OneShotBatch::Ends OneShotBatch::tell() {
  Ends ends;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    // Not held for longer than it is needed: the listener may have it freed by another thread.
    const std::shared_ptr<GenerationRequest> held = std::move(members_[i].request);
    const GenerationRequest& request = *held;
    const schedule::BatchJob& job = jobs_[i];
    if (request.cancelled.load(std::memory_order_relaxed)) {
      ++ends.cancelled;
      request.listener->on_error(cancelled_error());
    } else if (request.deadline && *request.deadline < ended_) {
      ++ends.expired;
      request.listener->on_error(late_error());
    } else if (job.error) {
      ++ends.failed;
      request.listener->on_error(*job.error);
    } else {
      ++ends.completed;
      const TimePoint accepted = members_[i].accepted;
      Completion completion;
      completion.usage = {tokens_of(job.input), tokens_of(job.output)};
      completion.queued = started_ - accepted;
      completion.first_token = completion.total = ended_ - accepted;
      ends.prompt_tokens += completion.usage.prompt_tokens;
      ends.completion_tokens += completion.usage.completion_tokens;
      request.listener->on_text(job.output);
      request.listener->on_complete(completion);
    }
  }
  jobs_.clear();
  members_.clear();
  return ends;
}

}  // namespace weir::model
