// SPDX-License-Identifier: Apache-2.0
//
// A context over weights that turns texts into vectors, or scores them: many texts in one call of
// libllama, each a sequence of its own.
//
// Attention is computed over all tokens of a call, whatever text they are of, so a call's cost
// grows with the square of its tokens beside what each token costs. Beyond a few hundred tokens a
// larger call is slower for each of them (embedding_budget.h).
//
// Thread-compatible: one thread at a time. Shares the weights, owns its contexts. A file that does
// not do the task is an error that says what would.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "agent/base/result.h"
#include "agent/model/embedding_input.h"
#include "agent/model/llama_handles.h"
#include "agent/model/loaded_model.h"
#include "agent/model/memory_reading.h"
#include "agent/model/weights.h"

namespace weir::model {

/// libllama's bound of sequences in one call.
inline constexpr std::size_t kMostTextsPerCall = 256;

/// What one EmbeddingModel needs beside the weights; estimated. Memory for the KV cache of files
/// that have one, and for what a call computes with.
[[nodiscard]] std::uint64_t embedding_model_bytes(const ModelOptions& options,
                                                  const llama_model* weights);

/// Tokens of one text at most: context_tokens of the options, but no more than the model was
/// trained for.
[[nodiscard]] std::uint32_t most_text_tokens(const ModelOptions& options,
                                             const llama_model* weights);

class EmbeddingModel {
 public:
  struct Text {
    std::span<const std::int32_t> tokens;  ///< 1..most_text_tokens()
    std::span<float> values;               ///< filled in; values_per_text()
  };

  /// `stopping`, which must outlive it: when it becomes true, a call is stopped.
  static Result<EmbeddingModel> make(const Weights& weights, const ModelOptions& options,
                                     const std::atomic<bool>& stopping);

  /// On so many threads. Precondition: 1..kMostTextsPerCall texts, of no more than max_batch_tokens
  /// in all, or one. An error is that of all of them; kUnavailable: stopped.
  Status run(std::span<const Text> texts, std::uint32_t threads);

  /// Of its contexts, without the weights; as libllama says.
  [[nodiscard]] const MemoryReading& memory() const { return memory_; }

  /// The length of a vector, or 1 where texts are scored.
  [[nodiscard]] std::size_t values_per_text() const { return values_per_text_; }

 private:
  EmbeddingModel(const Weights& weights, Task task, std::size_t values_per_text,
                 std::uint32_t call_tokens)
      : weights_(weights.model),
        task_(task),
        values_per_text_(values_per_text),
        batch_(std::make_unique<Batch>(static_cast<std::int32_t>(call_tokens))) {}

  [[nodiscard]] Status take_values(llama_context* context, std::size_t text,
                                   std::span<float> values) const;

  std::shared_ptr<llama_model> weights_;
  Task task_;
  std::size_t values_per_text_;
  MemoryReading memory_;
  std::unique_ptr<Batch> batch_;
  ContextHandle few_;   ///< for up to kFewTokens
  ContextHandle many_;  ///< for more; after weights_: freed first
};

}  // namespace weir::model
