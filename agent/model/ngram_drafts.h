// SPDX-License-Identifier: Apache-2.0
//
// Guesses how a sequence goes on, from the sequence itself: its last tokens stood somewhere before,
// prompt included, and what followed there may follow again. Of the places that end in the same
// tokens, the one with the longest match of 3, 2 or 1 tokens is taken, of equals the latest; as
// long as its guesses are right, it is followed further, round and round where a text repeats
// itself.
//
// Every token that comes tells whether the guess for it was right, whether or not anybody has used
// the guess: how good drafts would be is known before the first one is tried.
//
// A token costs the same however long the sequence is. The index holds the last `most_tokens`, or
// at least half of them.
//
// Thread-compatible. Pure. The sequence is the caller's, who hands it in with each call: the same
// one, longer each time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace weir::model {

class NgramDrafts {
 public:
  static constexpr std::size_t kLongest = 3;

  static constexpr std::size_t kMostTokens = 32768;

  NgramDrafts() : NgramDrafts(kMostTokens) {}
  explicit NgramDrafts(std::size_t most_tokens);

  /// What became of the guess for one token.
  struct Guess {
    std::size_t matched = 0;  ///< so many tokens before it had been as in the earlier place
    bool right = false;
  };

  /// Tokens taken in so far.
  [[nodiscard]] std::size_t seen() const { return seen_; }
  /// Takes in the token after those; unset: there was no guess for it. Precondition: it is there.
  std::optional<Guess> take_in(std::span<const std::int32_t> tokens);

  /// So many tokens before the next one are as in the earlier place; unset: there is none.
  [[nodiscard]] std::optional<std::size_t> matched() const;

  /// Guesses for the next `count` tokens. Precondition: matched() is set, all tokens are taken in.
  [[nodiscard]] std::vector<std::int32_t> draft(std::span<const std::int32_t> tokens,
                                                std::size_t count) const;

 private:
  /// Makes `end` the latest place that the `length` tokens before it lead to; the one before.
  std::optional<std::size_t> exchange(std::span<const std::int32_t> tokens, std::size_t end,
                                      std::size_t length);
  /// Room for the n-grams of one more token.
  void make_room(std::span<const std::int32_t> tokens);
  void index_again(std::span<const std::int32_t> tokens, std::size_t slots);

  const std::size_t most_tokens_;
  std::size_t seen_ = 0;
  std::size_t first_ = 0;             ///< of the tokens that are indexed
  std::vector<std::uint32_t> slots_;  ///< place and length of an n-gram; 0: free
  std::size_t used_ = 0;              ///< of the slots
  std::optional<std::size_t> next_;   ///< where the guess for the next token stands
  std::size_t matched_ = 0;           ///< before it
};

}  // namespace weir::model
