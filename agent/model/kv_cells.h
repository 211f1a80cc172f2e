// SPDX-License-Identifier: Apache-2.0
//
// What the cells of the KV cache hold, in our own books: libllama does not tell. Each slot (a
// sequence id) holds the tokens of a sequence from its first one on, a cell for each; slots may
// share cells, and a cell is free when no slot holds it. A slot whose request has ended may keep
// its cells, for a later request that begins alike, until they are needed.
//
// Thread-compatible. Pure: the caller does the same to libllama's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace weir::model {

/// How many tokens both begin with.
[[nodiscard]] std::size_t common_prefix(std::span<const std::int32_t> a,
                                        std::span<const std::int32_t> b);

class KvCells {
 public:
  KvCells(std::size_t slots, std::size_t cells);

  [[nodiscard]] std::size_t slots() const { return slots_.size(); }
  [[nodiscard]] std::size_t cells() const { return cells_.size(); }
  [[nodiscard]] std::size_t free() const { return free_.size(); }
  /// Held by nobody but ended requests: what evicting them all would free.
  [[nodiscard]] std::size_t kept() const { return cells() - free() - in_use_; }
  /// Held by requests that have not ended.
  [[nodiscard]] std::size_t in_use() const { return in_use_; }

  [[nodiscard]] std::span<const std::int32_t> tokens(std::size_t slot) const {
    return slots_[slot].tokens;
  }
  [[nodiscard]] bool busy(std::size_t slot) const { return slots_[slot].busy; }

  /// Whether a request works in the slot.
  void set_busy(std::size_t slot, bool busy);

  /// More tokens at the end; false, and nothing has changed, when there are not as many cells.
  [[nodiscard]] bool append(std::size_t slot, std::span<const std::int32_t> tokens);

  /// Holds the first `length` tokens from now on, or what it has if that is less.
  void truncate(std::size_t slot, std::size_t length);

  /// `to` holds the first `length` tokens of `from` and nothing else, in the same cells.
  /// Precondition: from != to, and `from` holds that many.
  void share(std::size_t from, std::size_t to, std::size_t length);

  struct Match {
    std::size_t slot = 0;
    std::size_t length = 0;
  };
  /// The slot that holds the most of what `tokens` begin with; of equals one that is not busy, then
  /// the lowest. Unset: none holds any.
  [[nodiscard]] std::optional<Match> longest_match(std::span<const std::int32_t> tokens) const;

  /// The slot for a new request that begins like this: of those that can be used again without
  /// losing more than they give the one that gives most, else the lowest empty one, else the one
  /// that has not been used for longest. Unset: all are busy.
  [[nodiscard]] std::optional<std::size_t> place_for(std::span<const std::int32_t> tokens) const;

  /// An idle slot with more busy neighbours than this idle one: of those the one with most, of
  /// equals one without tokens, then the one that has not been used for longest. Unset: none has
  /// more.
  [[nodiscard]] std::optional<std::size_t> nearer_place(std::size_t slot) const;

  /// Each holds from now on what the other held, and since when. Precondition: both are idle.
  void swap(std::size_t a, std::size_t b) { std::swap(slots_[a], slots_[b]); }

  /// The slot whose kept tokens have not been used for longest. Unset: nothing is kept.
  [[nodiscard]] std::optional<std::size_t> oldest_kept() const;

 private:
  struct Cell {
    std::uint16_t holders = 0;
    std::uint16_t busy_holders = 0;
  };
  struct Slot {
    std::vector<std::int32_t> tokens;
    std::vector<std::uint32_t> at;  ///< the cell of each token
    bool busy = false;
    std::uint64_t used = 0;  ///< when it became busy or idle, in events
  };

  void hold(const Slot& slot, std::uint32_t cell);
  void release(const Slot& slot, std::uint32_t cell);

  std::vector<Slot> slots_;
  std::vector<Cell> cells_;
  std::vector<std::uint32_t> free_;
  std::size_t in_use_ = 0;
  std::uint64_t events_ = 0;
};

}  // namespace weir::model
