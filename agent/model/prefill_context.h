// SPDX-License-Identifier: Apache-2.0
//
// A context of its own for one prompt at a time, over weights that others use too. What it computes
// can be interrupted: between two nodes of its graph something else may run on the same thread, a
// decode of another context included, and the computation goes on where it was.
//
// Why another context: a wide pass costs a prompt a third of what narrow ones do, and takes longer
// than those who generate should wait. libllama cannot leave a pass and come back to it within one
// context.
//
// Thread-compatible: the engine thread. The weights must outlive it.
#pragma once

#include <llama.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "agent/base/result.h"
#include "agent/model/llama_handles.h"
#include "agent/model/memory_reading.h"

namespace weir::model {

/// Tokens of one pass. More cost hardly less each, and the largest node of the graph, which is
/// never interrupted, takes the longer.
inline constexpr std::uint32_t kPrefillPassTokens = 256;

/// KV cells of a prefill context beside a context of `sequences` x `context_tokens`; 0: none is
/// worth having, as nobody generates beside a prompt, or as no prompt is long.
[[nodiscard]] std::uint32_t prefill_cells(std::uint32_t sequences, std::uint32_t context_tokens);

/// Whether sequences of the model can move between contexts of different shape: those of others
/// than plain KV caches (recurrent, hybrid, sliding windows) are saved in other ways.
[[nodiscard]] bool sequences_move(const llama_model* model);

/// A saved sequence says where it is in each of the streams of its context: nothing, in all but
/// one. These make of it what a context of one stream, or of many, can load (llama_kv_cache::
/// state_write). False: it is something else.
[[nodiscard]] bool to_one_stream(std::vector<std::uint8_t>& state);
[[nodiscard]] bool to_streams(std::vector<std::uint8_t>& state, std::uint32_t streams);

class PrefillContext {
 public:
  /// Called after every large node of the graph; false: stop.
  using Look = std::function<bool()>;

  /// Otherwise like a context made with `like`; `memory` grows by what it has.
  static Result<std::unique_ptr<PrefillContext>> create(llama_model* model, std::uint32_t cells,
                                                        llama_context_params like,
                                                        MemoryReading& memory);
  PrefillContext(const PrefillContext&) = delete;
  PrefillContext& operator=(const PrefillContext&) = delete;
  ~PrefillContext() = default;

  [[nodiscard]] std::size_t cells() const { return llama_n_ctx(context_.get()); }

  /// Forgets what it has, and takes over another context's sequence, as that has saved it; empty:
  /// none. False: it cannot.
  [[nodiscard]] bool begin(std::vector<std::uint8_t> state);

  /// Computes these tokens, from `position` on; at most kPrefillPassTokens. False: it was stopped,
  /// or it failed; what it holds is of no use then.
  [[nodiscard]] bool compute(std::span<const llama_token> tokens, std::size_t position,
                             const Look& look);

  /// The sequence, for a context whose cells are in so many streams (KvStore::streams()). Empty:
  /// libllama could not.
  [[nodiscard]] std::vector<std::uint8_t> save(std::uint32_t streams) const;

 private:
  explicit PrefillContext() : batch_(kPrefillPassTokens) {}
  static bool on_node(ggml_tensor* node, bool ask, void* self);

  const Look* look_ = nullptr;  ///< not null while it computes
  bool stopped_ = false;
  Batch batch_;
  ContextHandle context_;
};

}  // namespace weir::model
