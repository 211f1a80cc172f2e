// SPDX-License-Identifier: Apache-2.0
#include "agent/model/load_estimate.h"

#include <algorithm>

#include "agent/model/attention.h"

namespace weir::model {

namespace {

// libllama makes room for cells by so many (llama-context.cpp).
constexpr std::uint64_t kCellsTogether = 256;

std::uint64_t padded(std::uint64_t cells) {
  return (cells + kCellsTogether - 1) / kCellsTogether * kCellsTogether;
}

}  // namespace

MemoryReading estimate_memory(const ModelOptions& options, const CheckedGguf& file) {
  const GgufShape& shape = file.shape;
  const std::uint64_t sequences = options.max_sequences;
  const std::uint64_t each = options.context_tokens.value_or(static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(shape.trained_tokens, 1, kMostContextTokens)));
  const bool pooled = options.kv_tokens && *options.kv_tokens < each * sequences;
  // Those that a token can see, and all.
  const std::uint64_t seen = padded(pooled ? *options.kv_tokens : each);
  const std::uint64_t cells = pooled ? seen : seen * sequences;
  MemoryReading memory;
  memory.mapped_bytes = file.bytes;
  memory.copied_bytes = options.repack ? file.repacked_bytes : 0;
  const std::uint64_t outputs = sequences + options.max_draft_tokens.value_or(0);
  const std::uint64_t logits = outputs * shape.vocabulary * sizeof(float);
  memory.output_bytes = options.instances * logits;
  // Live at once in a step: for each token two vectors of the feed-forward part, half a dozen of
  // the model's width, and which cells it sees; keys times queries; the logits.
  const std::uint64_t vectors = sizeof(float) * (2 * shape.inner_width + 6 * shape.width);
  const Attention attention =
      choose_attention(static_cast<std::uint32_t>(shape.head_size),
                       static_cast<std::uint32_t>(shape.heads), seen, kStepTokens);
  const std::uint64_t cell_bytes =
      ggml_row_size(attention.keys, static_cast<std::int64_t>(shape.cell_keys)) +
      ggml_row_size(GGML_TYPE_F16, static_cast<std::int64_t>(shape.cell_values));
  memory.kv_bytes = options.instances * cells * cell_bytes;
  const std::uint64_t mask = seen * attention.mask_bytes;
  memory.compute_bytes = options.instances * (attention.pass_tokens * (vectors + mask) +
                                              attention.product_bytes + logits);
  return memory;
}

}  // namespace weir::model
