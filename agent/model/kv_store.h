// SPDX-License-Identifier: Apache-2.0
//
// The KV cache of a context, and the books about it (kv_cells.h), changed together. It is one of
// two kinds. Reserved: every slot has the cells of a whole sequence, none is ever short, and what
// two slots share is copied. Pooled: all slots take from fewer cells, so that they may run short,
// and share them without a copy.
//
// A model whose memory is overwritten as it goes (recurrent, hybrid) cannot go back to an earlier
// token: nothing is kept, shared or cut for it.
//
// Thread-compatible: the engine thread. The context must outlive it.
#pragma once

#include <llama.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "agent/model/engine_reading.h"
#include "agent/model/kv_cells.h"

namespace weir::model {

/// Whether a memory of this kind can forget its last tokens, and so be cut and shared.
[[nodiscard]] inline bool memory_goes_back(bool recurrent, bool hybrid) {
  return !recurrent && !hybrid;
}

class KvStore {
 public:
  /// `reuse`: keep what ended requests leave, and share.
  KvStore(llama_context* context, bool reuse);

  [[nodiscard]] const KvCells& cells() const { return cells_; }
  [[nodiscard]] bool goes_back() const { return goes_back_; }
  [[nodiscard]] bool reuses() const { return reuse_; }
  /// Whether slots can run short of cells.
  [[nodiscard]] bool pooled() const { return pooled_; }
  /// Parts of the cache, each with the cells of its own sequences.
  [[nodiscard]] std::uint32_t streams() const {
    return pooled_ ? 1 : static_cast<std::uint32_t>(cells_.slots());
  }
  /// Cells that are free, or would be.
  [[nodiscard]] std::size_t available() const { return cells_.free() + cells_.kept(); }

  struct Place {
    std::size_t slot = 0;
    std::size_t tokens = 0;  ///< of the new ones: there already
  };
  /// An idle slot for a sequence that begins like this, at most `most` of which may be there
  /// already. It is busy from now on. Precondition: a slot is idle.
  [[nodiscard]] Place take_place(std::span<const llama_token> tokens, std::size_t most);

  /// Puts what any other slot has of `tokens`, up to `most`, into this busy one, if that is worth
  /// it. Returns how many tokens the slot holds then.
  std::size_t adopt(std::size_t slot, std::span<const llama_token> tokens, std::size_t most);

  /// Gives up what is kept until so many cells are free; false: they will not be.
  [[nodiscard]] bool make_room(std::size_t cells);

  /// The context has decoded these. Precondition: there was room.
  void decoded(std::size_t slot, std::span<const llama_token> tokens);
  /// Brings slot and books to what they were when it had `length` tokens, whatever a stopped decode
  /// has left; false: it cannot.
  [[nodiscard]] bool cut(std::size_t slot, std::size_t length);
  /// The tokens that libllama has for the slot.
  [[nodiscard]] std::size_t length(std::size_t slot) const;

  /// The sequence is gone. `keep`: what it leaves may be of use.
  void release(std::size_t slot, bool keep);

  [[nodiscard]] std::size_t state_bytes(std::size_t slot) const;
  /// Empty: libllama could not.
  [[nodiscard]] std::vector<std::uint8_t> save(std::size_t slot) const;
  /// Into a busy, empty slot; false, and it is empty still: there is no room, or libllama could
  /// not.
  [[nodiscard]] bool load(std::size_t slot, std::span<const std::uint8_t> state,
                          std::span<const llama_token> tokens);

  /// Forgets everything; slots stay busy.
  void clear();

  [[nodiscard]] std::uint64_t evictions() const { return evictions_; }

 private:
  void evict(std::size_t slot);
  /// An idle slot as near to the busy ones as may be; what it kept goes to the idle slot `instead`.
  std::size_t beside_busy(std::size_t instead);
  /// What one idle slot keeps goes to another one; false: it is too much, or libllama could not.
  bool move_kept(std::size_t from, std::size_t to);

  llama_context* const context_;
  const llama_memory_t memory_;
  const bool goes_back_;
  const bool reuse_;
  const bool pooled_;
  KvCells cells_;
  std::uint64_t evictions_ = 0;
};

}  // namespace weir::model
