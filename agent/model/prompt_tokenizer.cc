// SPDX-License-Identifier: Apache-2.0
#include "agent/model/prompt_tokenizer.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

namespace weir::model {

PromptTokenizer::PromptTokenizer(RequestQueue& queue, const LoadedModel& model,
                                 schedule::WorkerPool& workers)
    : queue_(queue),
      workers_(workers),
      vocabulary_(model.vocabulary()),
      context_tokens_(model.context_tokens()) {
  queue_.prepare_with([this](RequestQueue::Ticket ticket, const GenerationRequest& request) {
    begin(ticket, request.prompt.size());
  });
}

PromptTokenizer::~PromptTokenizer() {
  std::unique_lock lock(mutex_);
  none_in_hand_.wait(lock, [this] { return in_hand_ == 0; });
}

void PromptTokenizer::begin(RequestQueue::Ticket ticket, std::size_t prompt_bytes) {
  if (prompt_bytes <= kShortPromptBytes) {
    tokenize(ticket);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    ++in_hand_;
  }
  schedule::Task task([this, ticket] {
    tokenize(ticket);
    const std::lock_guard lock(mutex_);
    // Under the lock: who waits destroys this as soon as it can.
    if (--in_hand_ == 0) none_in_hand_.notify_all();
  });
  if (workers_.submit(std::move(task)) != schedule::WorkerPool::Submitted::kAccepted) {
    std::move(task)();
  }
}

void PromptTokenizer::tokenize(RequestQueue::Ticket ticket) {
  if (const auto request = queue_.waiting(ticket)) {
    queue_.prepared(ticket, tokens_of(request->prompt));
  }
}

Result<std::vector<std::int32_t>> PromptTokenizer::tokens_of(const std::string& prompt) const {
  auto tokens = vocabulary_.tokenize(prompt);
  if (!tokens) return std::move(tokens).error();
  if (tokens->empty()) return make_error(Code::kInvalidArgument, "the prompt is empty");
  if (tokens->size() > context_tokens_) {
    return make_error(Code::kInvalidArgument,
                      fmt::format("the prompt has {} tokens; the context of this model holds {}",
                                  tokens->size(), context_tokens_));
  }
  tokens->shrink_to_fit();  // it may wait for long
  return tokens;
}

}  // namespace weir::model
