// SPDX-License-Identifier: Apache-2.0
//
// A GGUF file with random weights in the shape of a real model: as large and as slow as that one,
// and made in seconds without a download. It generates nonsense.
//
// Weights have a standard deviation of about 0.02, as after initialization, so that nothing
// overflows however deep the model is. The same seed gives the same file.
//
// Thread-safe: no shared state.
#pragma once

#include <ggml.h>
#include <llama.h>

#include <cstdint>
#include <string>

#include "agent/base/result.h"

namespace weir::bench {

/// What decides how much a forward pass reads and computes.
struct ModelShape {
  enum class Architecture {
    kLlama,  ///< generates; embeddings tied to the output
    kBert,   ///< embeds, or scores where it pools by rank
  };
  Architecture architecture = Architecture::kLlama;
  std::uint32_t vocabulary = 0;
  std::uint32_t width = 0;
  std::uint32_t layers = 0;
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t ffn = 0;
};

struct SynthOptions {
  ModelShape shape;
  ggml_type type = GGML_TYPE_Q8_0;  ///< Q8_0, Q4_0 or F16
  std::uint32_t context_tokens = 4096;
  std::uint64_t seed = 1;
  /// Of kBert: what becomes of the vectors of a text's tokens.
  enum llama_pooling_type pooling = LLAMA_POOLING_TYPE_MEAN;
  /// A model of any size: its tokenizer is taken and padded with pieces "[x0]", "[x1]", ...
  std::string tokenizer_path;
};

struct SynthReport {
  std::uint64_t parameters = 0;
  std::uint64_t bytes = 0;
};

/// Writes the file beside `path` and renames it, so that `path` is never half a model. An end token
/// is hardly ever the most likely one: its row is a thousandth of the others.
[[nodiscard]] Result<SynthReport> write_synthetic_model(const std::string& path,
                                                        const SynthOptions& options);

}  // namespace weir::bench
