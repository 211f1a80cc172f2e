// SPDX-License-Identifier: Apache-2.0
#include "agent/model/load_estimate.h"

#include <algorithm>

namespace weir::model {

namespace {

std::uint64_t positive(std::int32_t value) {
  return static_cast<std::uint64_t>(std::max(1, value));
}

}  // namespace

std::uint64_t estimate_bytes(const ModelOptions& options, std::uint64_t file_bytes,
                             const llama_model* weights) {
  if (weights == nullptr) return file_bytes;
  const std::uint64_t width = positive(llama_model_n_embd(weights));
  const std::uint64_t heads = positive(llama_model_n_head(weights));
  const std::uint64_t cells =
      options.context_tokens.value_or(static_cast<std::uint32_t>(std::min<std::uint64_t>(
          positive(llama_model_n_ctx_train(weights)), kMostContextTokens))) *
      std::uint64_t{options.max_sequences};
  // Keys and values, 16 bits each.
  const std::uint64_t kv = cells * positive(llama_model_n_layer(weights)) * 2 * 2 *
                           (width / heads * positive(llama_model_n_head_kv(weights)));
  // Of a step: some ten vectors of the model's width for each token, of which those within the
  // feed-forward part are a few times as wide, and the logits of each sequence; 32 bits each.
  const auto vocabulary = positive(llama_vocab_n_tokens(llama_model_get_vocab(weights)));
  const std::uint64_t compute =
      4 * (kStepTokens * width * 16 + std::uint64_t{options.max_sequences} * vocabulary);
  return file_bytes + kv + compute;
}

}  // namespace weir::model
