// SPDX-License-Identifier: Apache-2.0
//
// Owners of libllama's C objects.
//
// Thread-compatible: like the objects themselves. Each handle owns its object.
#pragma once

#include <llama.h>

#include <cstdint>
#include <memory>

namespace weir::model {

struct FreeModel {
  void operator()(llama_model* model) const { llama_model_free(model); }
};
struct FreeContext {
  void operator()(llama_context* context) const { llama_free(context); }
};
struct FreeSampler {
  void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
};

using ModelHandle = std::unique_ptr<llama_model, FreeModel>;
using ContextHandle = std::unique_ptr<llama_context, FreeContext>;
using SamplerHandle = std::unique_ptr<llama_sampler, FreeSampler>;

/// A batch of at most `capacity` tokens, each of one sequence.
class Batch {
 public:
  explicit Batch(std::int32_t capacity) : batch_(llama_batch_init(capacity, 0, 1)) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() { llama_batch_free(batch_); }

  void clear() { batch_.n_tokens = 0; }

  /// Returns the token's index in the batch, which names its logits after the decode.
  /// Precondition: fewer than capacity tokens.
  std::int32_t add(llama_token token, llama_pos position, llama_seq_id sequence,
                   bool wants_logits) {
    const std::int32_t at = batch_.n_tokens++;
    batch_.token[at] = token;
    batch_.pos[at] = position;
    batch_.n_seq_id[at] = 1;
    batch_.seq_id[at][0] = sequence;
    batch_.logits[at] = wants_logits ? 1 : 0;
    return at;
  }

  [[nodiscard]] std::int32_t size() const { return batch_.n_tokens; }
  [[nodiscard]] const llama_batch& get() const { return batch_; }

 private:
  llama_batch batch_;
};

}  // namespace weir::model
