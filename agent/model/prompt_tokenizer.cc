// SPDX-License-Identifier: Apache-2.0
#include "agent/model/prompt_tokenizer.h"

#include <fmt/format.h>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "agent/base/result.h"

namespace weir::model {

namespace {

/// Shares the weights.
class OfPrompts {
 public:
  explicit OfPrompts(const LoadedModel& model)
      : weights_(model.weights()),
        vocabulary_(model.vocabulary()),
        context_tokens_(model.context_tokens()) {}

  Result<std::vector<std::int32_t>> operator()(const GenerationRequest& request) const {
    auto tokens = vocabulary_.tokenize(request.prompt);
    if (!tokens) return std::move(tokens).error();
    if (tokens->empty()) return make_error(Code::kInvalidArgument, "the prompt is empty");
    if (tokens->size() > context_tokens_) {
      return make_error(Code::kInvalidArgument,
                        fmt::format("the prompt has {} tokens; the context of this model holds {}",
                                    tokens->size(), context_tokens_));
    }
    return tokens;
  }

 private:
  std::shared_ptr<llama_model> weights_;
  Vocabulary vocabulary_;
  std::uint32_t context_tokens_;
};

std::uint64_t bytes_of(const GenerationRequest& request) {
  return request.prompt.size() + (request.embedding ? request.embedding->bytes() : 0);
}

}  // namespace

/// Shared by the queue's function and the tasks.
class PromptTokenizer::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(RequestQueue& queue, Tokenize tokenize, schedule::WorkerPool& workers)
      : queue_(queue.weak_from_this()), workers_(workers), tokenize_(std::move(tokenize)) {}

  void begin(RequestQueue::Ticket ticket, std::uint64_t prompt_bytes) {
    if (prompt_bytes <= kShortPromptBytes) {
      tokenize(ticket);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      ++in_hand_;
    }
    schedule::Task task([self = shared_from_this(), ticket] {
      self->tokenize(ticket);
      const std::lock_guard lock(self->mutex_);
      if (--self->in_hand_ == 0) self->none_in_hand_.notify_all();
    });
    if (workers_.submit(std::move(task)) != schedule::WorkerPool::Submitted::kAccepted) {
      std::move(task)();
    }
  }

  void wait() {
    std::unique_lock lock(mutex_);
    none_in_hand_.wait(lock, [this] { return in_hand_ == 0; });
  }

 private:
  void tokenize(RequestQueue::Ticket ticket) {
    const auto queue = queue_.lock();
    if (!queue) return;
    if (const auto request = queue->waiting(ticket)) {
      auto tokens = tokenize_(*request);
      if (tokens) tokens->shrink_to_fit();  // it may wait for long
      queue->prepared(ticket, std::move(tokens));
    }
  }

  // Constant after construction.
  const std::weak_ptr<RequestQueue> queue_;  // which has the function that owns this
  schedule::WorkerPool& workers_;
  const Tokenize tokenize_;

  std::mutex mutex_;
  std::condition_variable none_in_hand_;
  std::size_t in_hand_ = 0;  ///< by the pool; guarded by mutex_
};

PromptTokenizer::PromptTokenizer(RequestQueue& queue, const LoadedModel& model,
                                 schedule::WorkerPool& workers)
    : PromptTokenizer(queue, OfPrompts(model), workers) {}

PromptTokenizer::PromptTokenizer(RequestQueue& queue, Tokenize tokenize,
                                 schedule::WorkerPool& workers)
    : core_(std::make_shared<Core>(queue, std::move(tokenize), workers)) {
  queue.prepare_with([core = core_](RequestQueue::Ticket ticket, const GenerationRequest& request) {
    core->begin(ticket, bytes_of(request));
  });
}

PromptTokenizer::~PromptTokenizer() { core_->wait(); }

}  // namespace weir::model
