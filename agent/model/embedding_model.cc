// SPDX-License-Identifier: Apache-2.0
#include "agent/model/embedding_model.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <string>
#include <utility>

#include "agent/model/llama_log.h"

namespace weir::model {

namespace {

/// Up to here plain attention is faster than the one that works in tiles of 64 tokens. Measured on
/// two threads of a Zen 4 with a 22 M model: 16 tokens 1.7 and 2.3 ms, 32 tokens 4.1 and 5.8 ms, 64
/// tokens 7.0 and 6.3 ms.
constexpr std::uint32_t kFewTokens = 63;

Error refused(const ModelOptions& options, const std::string& reason) {
  return make_error(Code::kInvalidArgument, fmt::format("{}: {}", options.path, reason));
}

std::uint32_t call_tokens(const ModelOptions& options, const llama_model* weights) {
  return std::max(options.max_batch_tokens, most_text_tokens(options, weights));
}

std::uint32_t texts_per_call(const ModelOptions& options) {
  return static_cast<std::uint32_t>(std::min(options.batch.max_batch_size, kMostTextsPerCall));
}

bool is_set(void* flag) {
  return static_cast<const std::atomic<bool>*>(flag)->load(std::memory_order_relaxed);
}

/// Null with a reason in `errors`.
ContextHandle make_context(const ModelOptions& options, llama_model* model, std::uint32_t tokens,
                           llama_flash_attn_type attention) {
  llama_context_params params = llama_context_default_params();
  params.n_seq_max = std::min(texts_per_call(options), tokens);
  // A text is never split, and neither is a call: without a causal mask the last token is looked at
  // by the first one. libllama tries its graph out with texts of equal length, and aborts when
  // these have more tokens than that.
  const std::uint32_t whole = (tokens + params.n_seq_max - 1) / params.n_seq_max * params.n_seq_max;
  params.n_ctx = params.n_batch = params.n_ubatch = whole;
  params.kv_unified = true;
  params.embeddings = true;
  params.flash_attn_type = attention;
  params.no_perf = true;
  return ContextHandle(llama_init_from_model(model, params));
}

/// Unset: the file does the task.
std::optional<std::string> unfit(Task task, enum llama_pooling_type pooling) {
  if (pooling == LLAMA_POOLING_TYPE_NONE || pooling == LLAMA_POOLING_TYPE_UNSPECIFIED) {
    return fmt::format(
        "task is {}, but the file has no pooling (pooling_type), which would make one result of "
        "the tokens of a text; a model that generates text has task generate",
        to_string(task));
  }
  const bool ranks = pooling == LLAMA_POOLING_TYPE_RANK;
  if (task == Task::kEmbed && ranks) {
    return "task is embed, but the file is of a model that scores pairs of texts: task score";
  }
  if (task == Task::kScore && !ranks) {
    return "task is score, but the file is of a model that embeds: task embed";
  }
  return std::nullopt;
}

std::uint64_t positive(std::int32_t value) {
  return static_cast<std::uint64_t>(std::max(1, value));
}

}  // namespace

std::uint32_t most_text_tokens(const ModelOptions& options, const llama_model* weights) {
  const auto trained = static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(llama_model_n_ctx_train(weights), 1, kMostContextTokens));
  return std::min(trained, options.context_tokens.value_or(trained));
}

std::uint64_t embedding_model_bytes(const ModelOptions& options, const llama_model* weights) {
  const std::uint64_t tokens = std::uint64_t{call_tokens(options, weights)} + kFewTokens;
  const std::uint64_t width = positive(llama_model_n_embd(weights));
  // Keys and values, 16 bits each; an encoder keeps none, but computes them.
  const std::uint64_t kv =
      tokens * positive(llama_model_n_layer(weights)) * 2 * 2 *
      (width / positive(llama_model_n_head(weights)) * positive(llama_model_n_head_kv(weights)));
  // Some ten vectors for each token, of which some are a few times as wide, the mask, and the
  // outputs; 32 bits each.
  const std::uint64_t compute = 4 * (tokens * width * 17 + tokens * tokens);
  return kv + compute;
}

Result<EmbeddingModel> EmbeddingModel::make(const Weights& weights, const ModelOptions& options,
                                            const std::atomic<bool>& stopping) {
  llama_model* const model = weights.model.get();
  try {
    const LlamaErrors log;
    const std::uint32_t tokens = call_tokens(options, model);
    ContextHandle many = make_context(options, model, tokens, LLAMA_FLASH_ATTN_TYPE_AUTO);
    ContextHandle few;
    if (many) {
      if (const auto why = unfit(options.task, llama_pooling_type(many.get()))) {
        return refused(options, *why);
      }
      few = make_context(options, model, std::min(tokens, kFewTokens),
                         LLAMA_FLASH_ATTN_TYPE_DISABLED);
    }
    if (!few) {
      return make_error(Code::kResourceExhausted,
                        fmt::format("{}: no context for {} tokens at once: {}", options.path,
                                    tokens, log.reason("libllama refused")));
    }
    const auto width = options.task == Task::kScore
                           ? std::size_t{1}
                           : static_cast<std::size_t>(positive(llama_model_n_embd_out(model)));
    EmbeddingModel made(weights, options.task, width, tokens);
    for (llama_context* const context : {few.get(), many.get()}) {
      // libllama takes the flag back as it was given; is_set() only reads it.
      llama_set_abort_callback(context, is_set, const_cast<std::atomic<bool>*>(&stopping));
    }
    made.memory_.kv_bytes = log.buffers().kv;
    made.memory_.compute_bytes = log.buffers().compute;
    made.memory_.output_bytes = log.buffers().output;
    made.few_ = std::move(few);
    made.many_ = std::move(many);
    return made;
  } catch (const std::exception& failure) {
    return refused(options, failure.what());
  }
}

Status EmbeddingModel::run(std::span<const Text> texts, std::uint32_t threads) {
  batch_->clear();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    llama_pos position = 0;
    for (const std::int32_t token : texts[i].tokens) {
      batch_->add(token, position++, static_cast<llama_seq_id>(i), true);
    }
  }
  const bool are_few = static_cast<std::uint32_t>(batch_->size()) <= kFewTokens;
  llama_context* const context = (are_few ? few_ : many_).get();
  try {
    const LlamaErrors errors;
    if (llama_memory_t memory = llama_get_memory(context)) llama_memory_clear(memory, false);
    const auto all = static_cast<std::int32_t>(threads);
    llama_set_n_threads(context, all, all);
    const std::int32_t status = llama_decode(context, batch_->get());
    constexpr std::int32_t kAborted = 2;
    if (status == kAborted) return make_error(Code::kUnavailable, "the agent is stopping");
    if (status != 0) {
      return make_error(Code::kInternal,
                        errors.reason(fmt::format("llama_decode returned {}", status)));
    }
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (Status taken = take_values(context, i, texts[i].values); !taken) return taken;
    }
  } catch (const std::exception& failure) {  // std::bad_alloc
    return make_error(Code::kInternal, failure.what());
  }
  return {};
}

Status EmbeddingModel::take_values(llama_context* context, std::size_t text,
                                   std::span<float> values) const {
  const float* const found = llama_get_embeddings_seq(context, static_cast<llama_seq_id>(text));
  if (found == nullptr) return make_error(Code::kInternal, "libllama has no result for a text");
  double square = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = found[i];
    square += double{found[i]} * double{found[i]};
  }
  if (!std::isfinite(square)) {
    return make_error(Code::kInternal, "the model computed what is not a number");
  }
  if (task_ == Task::kScore || square == 0) return {};
  const double scale = 1 / std::sqrt(square);
  for (float& value : values) value = static_cast<float>(value * scale);
  return {};
}

}  // namespace weir::model
