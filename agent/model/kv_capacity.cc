// SPDX-License-Identifier: Apache-2.0
#include "agent/model/kv_capacity.h"

#include <ggml.h>

#include <algorithm>

#include "agent/model/attention.h"

namespace weir::model {

namespace {

// libllama makes room for cells by so many (llama-context.cpp).
constexpr std::uint64_t kCellsTogether = 256;

// No machine has more; a file that says so will not be loaded.
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 44;

// In whole blocks: ggml_row_size() aborts on what is none, and a file may say anything.
std::uint64_t bytes_of(ggml_type type, std::uint64_t numbers) {
  const auto block = static_cast<std::uint64_t>(ggml_blck_size(type));
  return std::min(numbers, kMostBytes) / block * ggml_type_size(type) +
         (numbers % block == 0 ? 0 : ggml_type_size(type));
}

/// One cache for those that run; for those that wait, a sequence's part of it for each. Where each
/// sequence has cells of its own no request needs more than that part: max_queue is bound enough.
std::optional<double> ratio_of(const ModelOptions& options, const KvLayout& layout) {
  if (options.max_kv_ratio) return options.max_kv_ratio;
  if (layout.cells >= layout.context_tokens * options.max_sequences) return std::nullopt;
  const double sequences = double{1} * options.instances * options.max_sequences;
  return 1 + options.max_queue / sequences;
}

}  // namespace

std::uint64_t padded_cells(std::uint64_t cells) {
  return (cells + kCellsTogether - 1) / kCellsTogether * kCellsTogether;
}

KvLayout kv_layout(const ModelOptions& options, std::uint64_t trained_tokens) {
  KvLayout layout;
  layout.context_tokens = options.context_tokens.value_or(
      static_cast<std::uint32_t>(std::clamp<std::uint64_t>(trained_tokens, 1, kMostContextTokens)));
  const std::uint64_t sequences = options.max_sequences;
  const bool pooled = options.kv_tokens && *options.kv_tokens < layout.context_tokens * sequences;
  layout.visible_cells = padded_cells(pooled ? *options.kv_tokens : layout.context_tokens);
  layout.cells = pooled ? layout.visible_cells : layout.visible_cells * sequences;
  return layout;
}

std::uint64_t kv_bytes(const ModelOptions& options, const GgufShape& shape) {
  const KvLayout layout = kv_layout(options, shape.trained_tokens);
  const Attention attention =
      choose_attention(static_cast<std::uint32_t>(shape.head_size),
                       static_cast<std::uint32_t>(shape.heads), layout.visible_cells, kStepTokens);
  const std::uint64_t each =
      bytes_of(attention.keys, shape.cell_keys) + bytes_of(GGML_TYPE_F16, shape.cell_values);
  const std::uint64_t cells = layout.cells * options.instances;
  return each > kMostBytes / cells ? kMostBytes : each * cells;
}

KvCapacity kv_capacity(const ModelOptions& options, const GgufShape& shape) {
  const KvLayout layout = kv_layout(options, shape.trained_tokens);
  return kv_capacity(options, layout.context_tokens, kv_bytes(options, shape));
}

KvCapacity kv_capacity(const ModelOptions& options, std::uint64_t context_tokens,
                       std::uint64_t kv_bytes) {
  const KvLayout layout = kv_layout(options, context_tokens);
  const std::uint64_t cells = layout.cells * options.instances;
  // Rounded down, so that one request of a whole context never needs more than there is.
  const std::uint64_t each = kv_bytes / cells;
  if (each == 0 || kv_bytes >= kMostBytes) return {};
  KvCapacity kv{static_cast<std::uint32_t>(context_tokens), each, kv_bytes};
  if (const auto ratio = ratio_of(options, layout)) {
    kv.limit_bytes = static_cast<std::uint64_t>(static_cast<double>(kv_bytes) * *ratio);
  }
  return kv;
}

}  // namespace weir::model
