// SPDX-License-Identifier: Apache-2.0
#include "agent/model/warm_up.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string>

#include "agent/model/llama_handles.h"
#include "agent/model/llama_log.h"

namespace weir::model {

namespace {

bool is_set(void* flag) {
  return static_cast<const std::atomic<bool>*>(flag)->load(std::memory_order_relaxed);
}

}  // namespace

Status warm_up(LoadedModel& model, const std::atomic<bool>& stopping) {
  llama_context* const context = model.context();
  const llama_vocab* const vocabulary = llama_model_get_vocab(model.weights().get());
  const llama_token bos = llama_vocab_bos(vocabulary);
  const llama_token token = bos == LLAMA_TOKEN_NULL ? 0 : bos;
  const std::size_t tokens = std::min<std::size_t>(kWarmUpTokens, model.context_tokens());
  Batch batch(static_cast<std::int32_t>(tokens));
  for (std::size_t i = 0; i < tokens; ++i) {
    batch.add(token, static_cast<llama_pos>(i), 0, i + 1 == tokens);
  }
  // libllama takes the flag back as it was given; is_set() only reads it.
  llama_set_abort_callback(context, is_set, const_cast<std::atomic<bool>*>(&stopping));
  const LlamaErrors errors;
  std::int32_t status = 0;
  std::string reason;
  try {
    status = llama_decode(context, batch.get());
    reason = errors.reason(fmt::format("llama_decode returned {}", status));
  } catch (const std::exception& failure) {  // std::bad_alloc
    status = -2;
    reason = failure.what();
  }
  llama_set_abort_callback(context, nullptr, nullptr);
  llama_memory_clear(model.memory(), true);
  if (stopping.load(std::memory_order_relaxed)) {
    return make_error(Code::kUnavailable, "the agent is stopping");
  }
  if (status != 0) return make_error(Code::kInternal, "the first decode failed: " + reason);
  return {};
}

}  // namespace weir::model
