// SPDX-License-Identifier: Apache-2.0
#include "agent/model/load_estimate.h"

#include <algorithm>

#include "agent/model/attention.h"
#include "agent/model/kv_capacity.h"

namespace weir::model {

MemoryReading estimate_memory(const ModelOptions& options, const CheckedGguf& file) {
  const GgufShape& shape = file.shape;
  const std::uint64_t sequences = options.max_sequences;
  const KvLayout layout = kv_layout(options, shape.trained_tokens);
  MemoryReading memory;
  memory.mapped_bytes = file.bytes;
  memory.copied_bytes = options.repack ? file.repacked_bytes : 0;
  memory.kv_bytes = kv_bytes(options, shape);
  const std::uint64_t outputs = sequences + options.max_draft_tokens.value_or(0);
  const std::uint64_t logits = outputs * shape.vocabulary * sizeof(float);
  memory.output_bytes = options.instances * logits;
  // Live at once in a step: for each token two vectors of the feed-forward part, half a dozen of
  // the model's width, and which cells it sees; keys times queries; the logits.
  const std::uint64_t vectors = sizeof(float) * (2 * shape.inner_width + 6 * shape.width);
  const Attention attention =
      choose_attention(static_cast<std::uint32_t>(shape.head_size),
                       static_cast<std::uint32_t>(shape.heads), layout.visible_cells, kStepTokens);
  const std::uint64_t mask = layout.visible_cells * attention.mask_bytes;
  memory.compute_bytes = options.instances * (attention.pass_tokens * (vectors + mask) +
                                              attention.product_bytes + logits);
  const std::uint32_t for_prompts =
      prefill_cells(options.max_sequences, static_cast<std::uint32_t>(layout.context_tokens));
  if (for_prompts > 0) {
    const std::uint64_t more = padded_cells(for_prompts);
    const std::uint64_t cell_bytes = memory.kv_bytes / (layout.cells * options.instances);
    const std::uint64_t pass_tokens = std::min(attention.pass_tokens, kPrefillPassTokens);
    const std::uint64_t product = attention.product_bytes / layout.visible_cells * more;
    const std::uint64_t row = shape.vocabulary * sizeof(float);
    memory.compute_bytes +=
        options.instances * (more * cell_bytes + product + 2 * row +
                             pass_tokens * (vectors + more * attention.mask_bytes));
  }
  return memory;
}

}  // namespace weir::model
