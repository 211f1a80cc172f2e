// SPDX-License-Identifier: Apache-2.0
//
// Makes the waiting requests of a loaded model ready to be taken: finds out the tokens of their
// prompts, on the threads of the worker pool, and tells the queue. A short prompt is tokenized by
// whoever submits it, which costs less than to hand it over.
//
// Thread-safe: what the queue calls, from any thread. Shares the model's weights, and borrows queue
// and pool, which must outlive it; the destructor waits for the prompts in hand, which the pool
// must still be running for. A submit() that is under way meanwhile may tokenize a last one of a
// request that has left already: so the weights go with the queue's last call at the earliest.
// Whoever has left the queue is not tokenized any more. A prompt that is empty or longer than the
// context ends its request with kInvalidArgument. When the pool takes no more, the submitting
// thread does it. The same for any other way of making tokens of a request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/loaded_model.h"
#include "agent/model/request_queue.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

class PromptTokenizer {
 public:
  /// Begins with what waits already. Once for a queue: what is submitted later comes here as well,
  /// so nothing may be accepted any more when this is destroyed.
  PromptTokenizer(RequestQueue& queue, const LoadedModel& model, schedule::WorkerPool& workers);

  /// Called by several threads at once; goes with what it owns, as the weights do.
  using Tokenize = std::function<Result<std::vector<std::int32_t>>(const GenerationRequest&)>;
  PromptTokenizer(RequestQueue& queue, Tokenize tokenize, schedule::WorkerPool& workers);
  PromptTokenizer(const PromptTokenizer&) = delete;
  PromptTokenizer& operator=(const PromptTokenizer&) = delete;
  ~PromptTokenizer();

  /// Prompts up to this size are tokenized by the submitting thread: with the shipped vocabulary
  /// 0.14 us a byte, so 70 us at most, about what it costs until a sleeping worker runs.
  static constexpr std::size_t kShortPromptBytes = 512;

 private:
  class Core;
  const std::shared_ptr<Core> core_;
};

}  // namespace weir::model
