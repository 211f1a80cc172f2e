// SPDX-License-Identifier: Apache-2.0
#include "agent/model/attention.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <string_view>

namespace weir::model {

namespace {

// Of a vector of half precision with AVX-512, four registers wide (GGML_F16_STEP in ggml's
// simd-mappings.h); other CPUs have shorter ones.
constexpr std::uint32_t kVector = 64;
// Numbers of one block of Q8_0 (QK8_0 in ggml-common.h).
constexpr std::uint32_t kKeyBlock = 32;
// Enough for the matrices to be worth it: small models take the same time by the token from some 64
// on.
constexpr std::uint32_t kPassTokens = 128;
// For the products of queries and keys.
constexpr std::uint64_t kMostProductBytes = std::uint64_t{64} << 20;

/// Empty: there is none.
std::string metadata(const llama_model* model, const std::string& key) {
  std::array<char, 64> value{};
  const std::int32_t length =
      llama_model_meta_val_str(model, key.c_str(), value.data(), value.size());
  return length > 0 ? std::string(value.data()) : std::string();
}

}  // namespace

std::uint32_t head_size(const llama_model* model) {
  const std::string size =
      metadata(model, metadata(model, "general.architecture") + ".attention.key_length");
  std::uint32_t said = 0;
  std::from_chars(size.data(), size.data() + size.size(), said);
  if (said > 0) return said;
  const std::int32_t heads = llama_model_n_head(model);
  return heads > 0 ? static_cast<std::uint32_t>(llama_model_n_embd(model) / heads) : 0;
}

Attention choose_attention(std::uint32_t head_size, std::uint32_t heads, std::uint64_t cells,
                           std::uint32_t step_tokens) {
  const std::uint32_t pass_tokens = std::min(kPassTokens, step_tokens);
  const std::uint64_t product_bytes = cells * heads * pass_tokens * sizeof(float);
  if (head_size == 0 || head_size >= kVector || product_bytes > kMostProductBytes) {
    return {LLAMA_FLASH_ATTN_TYPE_AUTO, step_tokens, sizeof(ggml_fp16_t), 0, GGML_TYPE_F16};
  }
  const ggml_type keys = head_size == kKeyBlock ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
  return {LLAMA_FLASH_ATTN_TYPE_DISABLED, pass_tokens, sizeof(float), product_bytes, keys};
}

}  // namespace weir::model
