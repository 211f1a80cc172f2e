// SPDX-License-Identifier: Apache-2.0
#include "agent/model/gguf_shape.h"

#include <ggml.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

namespace weir::model {

namespace {

/// Numbers of one architecture.
class Numbers {
 public:
  Numbers(const GgufMetadata& metadata, std::string_view architecture)
      : metadata_(metadata), prefix_(std::string(architecture) + ".") {}

  [[nodiscard]] std::uint64_t get(std::string_view name, std::uint64_t otherwise = 0) const {
    const GgufEntry* const entry = metadata_.find(prefix_ + std::string(name));
    if (entry == nullptr) return otherwise;
    return entry->uint32().value_or(static_cast<std::uint32_t>(otherwise));
  }

  /// Of layer `layer`, where each may have its own; the number of all layers otherwise.
  [[nodiscard]] std::uint64_t of_layer(std::string_view name, std::uint64_t layer,
                                       std::uint64_t otherwise) const {
    const GgufEntry* const entry = metadata_.find(prefix_ + std::string(name));
    if (entry == nullptr) return otherwise;
    if (const auto one = entry->uint32()) return *one;
    const bool numbers =
        entry->is_array_of(GgufType::kUint32) || entry->is_array_of(GgufType::kInt32);
    if (!numbers || layer >= entry->count) return otherwise;
    std::int32_t value = 0;
    std::memcpy(&value, entry->value.data() + layer * sizeof value, sizeof value);
    return value > 0 ? static_cast<std::uint64_t>(value) : 0;
  }

 private:
  const GgufMetadata& metadata_;
  const std::string prefix_;
};

void count_cells(const Numbers& of, GgufShape& shape) {
  const std::uint64_t layers = of.get("block_count");
  for (std::uint64_t layer = 0; layer < layers; ++layer) {
    const std::uint64_t heads = of.of_layer("attention.head_count", layer, 0);
    if (heads == 0) continue;  // no attention in this one
    const std::uint64_t kv_heads = of.of_layer("attention.head_count_kv", layer, heads);
    shape.cell_keys += kv_heads * of.get("attention.key_length", shape.width / heads);
    shape.cell_values += kv_heads * of.get("attention.value_length", shape.width / heads);
  }
}

bool has_wide_vectors() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") != 0;
#else
  return true;  // NEON with dot products, by far most of the others
#endif
}

/// Whether libllama 0.5.0 has another order for this type, on this kind of CPU.
bool has_another_order(std::uint32_t type) {
  switch (type) {
    case GGML_TYPE_Q4_0:
    case GGML_TYPE_Q4_K:
    case GGML_TYPE_IQ4_NL:
    case GGML_TYPE_MXFP4:
      return has_wide_vectors();
    case GGML_TYPE_Q2_K:
#if defined(__x86_64__)
      return __builtin_cpu_supports("avx512f") != 0;
#else
      return false;
#endif
    case GGML_TYPE_Q5_K:
    case GGML_TYPE_Q6_K:
    case GGML_TYPE_Q8_0:
#if defined(__aarch64__)
      return true;
#else
      return false;
#endif
    default:
      return false;
  }
}

}  // namespace

GgufShape shape_of(const GgufMetadata& metadata) {
  const GgufEntry* const architecture = metadata.find("general.architecture");
  if (architecture == nullptr) return {};
  const Numbers of(metadata, architecture->text().value_or(""));
  GgufShape shape;
  shape.trained_tokens = of.get("context_length");
  shape.width = of.get("embedding_length");
  shape.heads = of.of_layer("attention.head_count", 0, 0);
  shape.head_size =
      of.get("attention.key_length", shape.width / std::max<std::uint64_t>(1, shape.heads));
  shape.inner_width = std::max(of.of_layer("feed_forward_length", 0, 0),
                               of.get("expert_feed_forward_length") * of.get("expert_used_count"));
  const GgufEntry* const tokens = metadata.find("tokenizer.ggml.tokens");
  if (tokens != nullptr) shape.vocabulary = tokens->count;
  count_cells(of, shape);
  return shape;
}

std::uint64_t repacked_bytes(const GgufMetadata& metadata) {
  constexpr std::uint64_t kRows = 8;  // taken together in the other order
  std::uint64_t bytes = 0;
  for (const GgufTensor& tensor : metadata.tensors) {
    // Matrices that are multiplied with; of the embedding rows are picked.
    if (tensor.dimensions < 2 || tensor.shape[1] % kRows != 0) continue;
    if (tensor.name == "token_embd.weight" || !has_another_order(tensor.type)) continue;
    const auto type = static_cast<ggml_type>(tensor.type);
    bytes += ggml_row_size(type, static_cast<std::int64_t>(tensor.shape[0])) * tensor.shape[1] *
             tensor.shape[2] * tensor.shape[3];
  }
  return bytes;
}

}  // namespace weir::model
