// SPDX-License-Identifier: Apache-2.0
//
// A grammar that generated text must follow, in GBNF, the notation of llama.cpp:
//
//   root ::= "[" item ("," item){0,9} "]"   # the rule that is the whole text
//   item ::= [a-z]+ | "\"" [^"\n]* "\"" | .
//
// Read and followed here rather than by libllama, because grammars come from clients. There, one
// whose recursion is hidden behind a rule that may be empty never ends, an ambiguous one takes time
// and memory that grow with a power of the text's length, and of a mistake nothing comes back but
// that there is one. Here any context-free grammar is fine, left recursion too; see GrammarMatcher.
// Not understood: references to tokens, <name> and <[id]>.
//
// Thread-safe: immutable once made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "agent/base/result.h"

namespace weir::model {

/// Code points from `first` to `last`.
struct CharRange {
  std::uint32_t first = 0;
  std::uint32_t last = 0;
};

class Grammar {
 public:
  static constexpr std::size_t kMaxBytes = 64 * 1024;
  static constexpr std::size_t kMaxNesting = 64;            ///< of parentheses
  static constexpr std::uint32_t kMaxRepetitions = 100000;  ///< in {m,n}
  static constexpr std::uint32_t kUnlimited = std::numeric_limits<std::uint32_t>::max();

  /// Fails with kInvalidArgument, saying line and column, when the text is longer than kMaxBytes,
  /// is not GBNF, has no rule `root`, refers to a rule that it has not, or has no text that
  /// matches.
  static Result<std::shared_ptr<const Grammar>> parse(std::string text);

  [[nodiscard]] const std::string& source() const { return source_; }

  // What the text was compiled to: the alternatives of all rules, one after the other, each a
  // sequence of elements up to kEnd or, of a repetition, up to kAgain.
  enum class Kind : std::uint8_t {
    kChar,   ///< value: the code point
    kSet,    ///< value: index for set()
    kRule,   ///< value: index for rule()
    kEnd,    ///< value: the rule that has been matched
    kAgain,  ///< value: the rule whose repeated element has been matched once more
  };
  struct Element {
    Kind kind = Kind::kEnd;
    std::uint32_t value = 0;
  };
  struct Rule {
    std::vector<std::uint32_t> starts;  ///< of its alternatives; a repetition has one
    bool may_be_empty = false;
    bool repeats = false;
    std::uint32_t min = 0;  ///< repetitions
    std::uint32_t max = 0;  ///< kUnlimited: any number
  };

  /// Of the rule that stands above root: its kEnd is the end of the whole text.
  static constexpr std::uint32_t kStartRule = 0;

  [[nodiscard]] const Element& element(std::uint32_t at) const { return elements_[at]; }
  [[nodiscard]] const Rule& rule(std::uint32_t index) const { return rules_[index]; }
  /// Sorted, without overlap.
  [[nodiscard]] const std::vector<CharRange>& set(std::uint32_t index) const {
    return sets_[index];
  }

 private:
  friend class GrammarParser;
  Grammar() = default;

  std::string source_;
  std::vector<Element> elements_;
  std::vector<Rule> rules_;
  std::vector<std::vector<CharRange>> sets_;
};

}  // namespace weir::model
