// SPDX-License-Identifier: Apache-2.0
//
// How large a model is, by the metadata of its file: what a load will take can be told before it
// begins.
//
// Thread-safe: free functions without state.
#pragma once

#include <cstdint>

#include "agent/model/gguf_reader.h"

namespace weir::model {

struct GgufShape {
  std::uint64_t trained_tokens = 0;  ///< of context
  std::uint64_t width = 0;           ///< of the embedding
  std::uint64_t heads = 0;           ///< of the first layer's attention
  std::uint64_t head_size = 0;       ///< numbers of one head's key
  std::uint64_t inner_width = 0;     ///< of the feed-forward part; of all experts used at once
  std::uint64_t vocabulary = 0;      ///< tokens
  std::uint64_t cell_keys = 0;       ///< numbers of a token's keys in all layers
  std::uint64_t cell_values = 0;     ///< and of its values
};

/// Of metadata that have passed check_gguf_model(). What is not there counts as 0.
[[nodiscard]] GgufShape shape_of(const GgufMetadata& metadata);

/// Bytes of the tensors that libllama copies on this CPU when it may, because it computes faster
/// with their elements in another order (ggml/src/ggml-cpu/repack.cpp). The file stays mapped
/// besides.
[[nodiscard]] std::uint64_t repacked_bytes(const GgufMetadata& metadata);

}  // namespace weir::model
