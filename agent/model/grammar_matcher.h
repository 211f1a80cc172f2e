// SPDX-License-Identifier: Apache-2.0
//
// Follows a text through a grammar, piece by piece, and says what may come next. By Earley's
// algorithm: after each character it holds every place of the grammar where the text may be, each
// once, however many ways lead there. So what a character costs is bounded by the grammar and the
// length of the text, and for grammars that leave no choice by the grammar alone. Work and memory
// are bounded besides: see gave_up().
//
// Earley (1970); rules that may be empty as Aycock and Horspool (2002).
//
// Thread-compatible: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "agent/model/grammar.h"

namespace weir::model {

class GrammarMatcher {
 public:
  /// Places looked at between two calls of begin_step(): some tenths of a second.
  static constexpr std::uint64_t kMaxWork = std::uint64_t{1} << 26;
  /// Places held, of 12 bytes.
  static constexpr std::size_t kMaxPlaces = std::size_t{1} << 21;

  explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar);

  /// Whether some text that matches begins with the text so far and `bytes`, which may end within a
  /// character.
  [[nodiscard]] bool accepts(std::string_view bytes);
  /// The same; if so, `bytes` are part of the text from now on, else nothing has changed.
  [[nodiscard]] bool advance(std::string_view bytes);
  /// Whether the text so far matches.
  [[nodiscard]] bool complete() const;
  /// Whether it matches, and no longer text does that begins with it.
  [[nodiscard]] bool exhausted() const;

  /// The bounds hold from one step to the next.
  void begin_step() { work_ = 0; }
  /// A bound was reached, and what was answered since is worth nothing.
  [[nodiscard]] bool gave_up() const { return gave_up_; }

 private:
  /// Where the text may be.
  struct Place {
    std::uint32_t at = 0;      ///< the element that comes next
    std::uint32_t origin = 0;  ///< after how many characters its rule began
    std::uint32_t count = 0;   ///< of a repetition: how often so far, as far as it matters
    friend bool operator==(const Place&, const Place&) = default;
  };
  /// A character of which bytes are missing.
  struct Partial {
    std::uint32_t value = 0;
    std::uint32_t missing = 0;
    std::uint32_t least = 0;  ///< what a character of that many bytes is at least
  };

  [[nodiscard]] bool feed(std::string_view bytes);
  [[nodiscard]] bool take(std::uint32_t character);
  [[nodiscard]] bool may_complete_character() const;
  [[nodiscard]] bool matches(const Grammar::Element& element, std::uint32_t first,
                             std::uint32_t last) const;
  void add(Place place);
  void begin_set();
  /// Follows from the last set all that needs no character.
  void close_set();
  void finish(std::uint32_t rule, std::uint32_t origin);
  [[nodiscard]] std::size_t end_of(std::size_t set) const;
  void back_to(std::size_t sets);

  const std::shared_ptr<const Grammar> grammar_;
  std::vector<Place> places_;        ///< of all sets, one after the other
  std::vector<std::size_t> begins_;  ///< of each set, in places_; one set for each character
  Partial partial_;
  std::uint64_t work_ = 0;
  bool gave_up_ = false;
  // The places of the last set by hash: index + 1 into places_, valid where the stamp is current.
  struct Slot {
    std::uint32_t stamp = 0;
    std::uint32_t place = 0;
  };
  std::vector<Slot> slots_;
  std::uint32_t stamp_ = 0;
};

}  // namespace weir::model
