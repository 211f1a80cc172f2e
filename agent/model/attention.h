// SPDX-License-Identifier: Apache-2.0
//
// How a context computes attention. ggml's flash attention on a CPU works row by row, in vectors of
// half precision, when a chunk has fewer than 64 tokens; heads smaller than such a vector it
// computes number by number. There, keys times queries as plain matrices are the faster way: with
// the shipped model, whose heads have 32 numbers, 32 tokens after 1900 others take 4 ms and not 53,
// and no size of a chunk takes much longer. It needs memory for the product of both, as large as
// the chunk is wide.
//
// One query, as each sequence that generates has, ggml multiplies with its keys one by one all the
// same, and of half precision number by number again: 40 % of a step's time with the shipped model.
// Keys of 8 bits in blocks of 32 have a kernel for one block, so that heads of 32 are kept so: 2.2
// to 2.7 times as many tokens per second, 1 to 32 sequences. It is what the products with weights
// make of their other side anyway, and costs nothing that can be seen: over 81,000 tokens of
// stories unseen in training the loss is 1.26354, and 1.26347 with half precision (1.26340 with
// single).
//
// Thread-safe: pure functions.
#pragma once

#include <llama.h>

#include <cstdint>

namespace weir::model {

struct Attention {
  llama_flash_attn_type flash = LLAMA_FLASH_ATTN_TYPE_AUTO;
  std::uint32_t pass_tokens = 0;    ///< of a step, computed at once (n_ubatch)
  std::uint64_t mask_bytes = 0;     ///< for each token and cell: whether it sees it
  std::uint64_t product_bytes = 0;  ///< of keys times queries; 0 with flash attention
  ggml_type keys = GGML_TYPE_F16;   ///< what they are kept as; values always as F16
};

/// Numbers of one head's key; 0: the file does not say.
[[nodiscard]] std::uint32_t head_size(const llama_model* model);

/// For sequences that look at up to `cells` KV cells each, and steps of at most `step_tokens`.
[[nodiscard]] Attention choose_attention(std::uint32_t head_size, std::uint32_t heads,
                                         std::uint64_t cells, std::uint32_t step_tokens);

}  // namespace weir::model
