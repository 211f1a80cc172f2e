// SPDX-License-Identifier: Apache-2.0
#include "agent/model/grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

namespace weir::model {

namespace {

using Element = Grammar::Element;
using Kind = Grammar::Kind;
using Sequence = std::vector<Element>;

constexpr std::uint32_t kLastCodePoint = 0x10FFFF;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || is_digit(c);
}

std::optional<std::uint32_t> hex_digit(char c) {
  if (is_digit(c)) return static_cast<std::uint32_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<std::uint32_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<std::uint32_t>(c - 'A' + 10);
  return std::nullopt;
}

std::vector<CharRange> normalized(std::vector<CharRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const CharRange& a, const CharRange& b) { return a.first < b.first; });
  std::vector<CharRange> merged;
  for (const CharRange& range : ranges) {
    if (!merged.empty() && range.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  return merged;
}

std::vector<CharRange> complement(const std::vector<CharRange>& ranges) {
  std::vector<CharRange> rest;
  std::uint32_t next = 0;
  for (const CharRange& range : ranges) {
    if (range.first > next) rest.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastCodePoint) rest.push_back({next, kLastCodePoint});
  return rest;
}

}  // namespace

/// Recursive descent. Throws within this file: what it reads is nested, and each failure ends all.
class GrammarParser {
 public:
  explicit GrammarParser(std::string text) {
    grammar_->source_ = std::move(text);
    text_ = grammar_->source_;
  }

  Result<std::shared_ptr<const Grammar>> run() {
    try {
      parse();
    } catch (Fault& fault) {
      return make_error(Code::kInvalidArgument, std::move(fault.message));
    }
    return std::shared_ptr<const Grammar>(std::move(grammar_));
  }

 private:
  struct Fault {
    std::string message;
  };
  /// What a rule is until all are known.
  struct Draft {
    std::vector<Sequence> alternatives;
    std::optional<std::size_t> defined_at;       ///< unset: only referred to
    std::optional<std::size_t> first_reference;  ///< position
    bool repeats = false;
    std::uint32_t min = 0;
    std::uint32_t max = 0;
  };

  [[noreturn]] void fail_at(std::size_t position, std::string_view why) const {
    const std::string_view before = text_.substr(0, position);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t newline = before.rfind('\n');
    const std::size_t column = position - (newline == std::string_view::npos ? 0 : newline + 1) + 1;
    throw Fault{fmt::format("grammar, line {}, column {}: {}", line, column, why)};
  }
  [[noreturn]] void fail(std::string_view why) const { fail_at(at_, why); }

  // ---- reading ----------------------------------------------------------------------------------

  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  [[nodiscard]] bool ended() const { return at_ >= text_.size(); }

  void skip_space(bool newlines) {
    while (!ended()) {
      const char c = peek();
      if (c == '#') {
        while (!ended() && peek() != '\n' && peek() != '\r') ++at_;
      } else if (c == ' ' || c == '\t' || (newlines && (c == '\n' || c == '\r'))) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string read_name() {
    const std::size_t begin = at_;
    while (is_name_char(peek())) ++at_;
    if (at_ == begin) fail("a rule's name is expected: letters, digits and '-'");
    return std::string(text_.substr(begin, at_ - begin));
  }

  std::uint32_t read_hex(std::size_t digits) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      const auto digit = hex_digit(peek());
      if (!digit) fail(fmt::format("the escape needs {} hexadecimal digits", digits));
      value = value * 16 + *digit;
      ++at_;
    }
    if (value > kLastCodePoint) fail("the escape is beyond U+10FFFF");
    return value;
  }

  std::uint32_t read_escape() {
    const char c = peek(1);
    at_ += 2;
    switch (c) {
      case 'x':
        return read_hex(2);
      case 'u':
        return read_hex(4);
      case 'U':
        return read_hex(8);
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case 'n':
        return '\n';
      case '\\':
      case '"':
      case '[':
      case ']':
      case '-':
        return static_cast<std::uint32_t>(c);
      default:
        at_ -= 2;
        fail(R"(unknown escape: there are \n \r \t \\ \" \[ \] \- \xHH \uHHHH \UHHHHHHHH)");
    }
  }

  std::uint32_t read_char() {
    if (peek() == '\\') return read_escape();
    const auto lead = static_cast<std::uint8_t>(text_[at_]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length == 1) return static_cast<std::uint8_t>(text_[at_++]);
    if (at_ + length > text_.size() || lead < 0xC2 || lead > 0xF4) fail("the text is not UTF-8");
    std::uint32_t value = lead & (0xFFU >> (length + 1));
    for (std::size_t i = 1; i < length; ++i) {
      const auto byte = static_cast<std::uint8_t>(text_[at_ + i]);
      if ((byte & 0xC0U) != 0x80U) fail("the text is not UTF-8");
      value = (value << 6U) | (byte & 0x3FU);
    }
    at_ += length;
    return value;
  }

  std::uint32_t read_count() {
    if (!is_digit(peek())) fail("a number of repetitions is expected");
    std::uint64_t value = 0;
    const std::size_t begin = at_;
    while (is_digit(peek())) {
      value = value * 10 + static_cast<std::uint64_t>(peek() - '0');
      if (value > Grammar::kMaxRepetitions) {
        fail_at(begin, fmt::format("at most {} repetitions", Grammar::kMaxRepetitions));
      }
      ++at_;
    }
    return static_cast<std::uint32_t>(value);
  }

  // ---- rules ------------------------------------------------------------------------------------

  std::uint32_t new_rule() {
    drafts_.emplace_back();
    drafts_.back().defined_at = at_;
    return static_cast<std::uint32_t>(drafts_.size() - 1);
  }

  std::uint32_t named(const std::string& name) {
    const auto [found, added] = names_.emplace(name, static_cast<std::uint32_t>(drafts_.size()));
    if (added) drafts_.emplace_back();
    return found->second;
  }

  Element add_set(std::vector<CharRange> ranges) {
    grammar_->sets_.push_back(std::move(ranges));
    return {Kind::kSet, static_cast<std::uint32_t>(grammar_->sets_.size() - 1)};
  }

  void read_literal(Sequence& sequence) {
    const std::size_t begin = at_++;
    while (peek() != '"') {
      if (ended() || peek() == '\n') fail_at(begin, "the string has no end");
      sequence.push_back({Kind::kChar, read_char()});
    }
    ++at_;
  }

  Element read_set() {
    const std::size_t begin = at_++;
    const bool inverse = peek() == '^';
    if (inverse) ++at_;
    std::vector<CharRange> ranges;
    while (peek() != ']') {
      if (ended() || peek() == '\n') fail_at(begin, "the set of characters has no end");
      const std::size_t at = at_;
      const std::uint32_t first = read_char();
      std::uint32_t last = first;
      if (peek() == '-' && peek(1) != ']' && peek(1) != '\0') {
        ++at_;
        last = read_char();
      }
      if (last < first) fail_at(at, "the range of characters runs backwards");
      ranges.push_back({first, last});
    }
    ++at_;
    if (ranges.empty() && !inverse) fail_at(begin, "the set of characters is empty");
    ranges = normalized(std::move(ranges));
    return add_set(inverse ? complement(ranges) : std::move(ranges));
  }

  Element repeated(Sequence unit, std::uint32_t min, std::uint32_t max) {
    Element one = unit.front();
    if (unit.size() > 1) {
      one = {Kind::kRule, new_rule()};
      drafts_[one.value].alternatives.push_back(std::move(unit));
    }
    const std::uint32_t rule = new_rule();
    Draft& draft = drafts_[rule];
    draft.repeats = true;
    draft.min = min;
    draft.max = max;
    draft.alternatives.push_back({one});
    return {Kind::kRule, rule};
  }

  /// What follows an element: * + ? {m} {m,} {m,n}; unset: nothing of the kind.
  std::optional<std::pair<std::uint32_t, std::uint32_t>> read_repetition() {
    const char c = peek();
    if (c != '*' && c != '+' && c != '?' && c != '{') return std::nullopt;
    const std::size_t begin = at_++;
    if (c == '*') return std::pair{0U, Grammar::kUnlimited};
    if (c == '+') return std::pair{1U, Grammar::kUnlimited};
    if (c == '?') return std::pair{0U, 1U};
    skip_space(false);
    const std::uint32_t min = read_count();
    std::uint32_t max = min;
    skip_space(false);
    if (peek() == ',') {
      ++at_;
      skip_space(false);
      max = is_digit(peek()) ? read_count() : Grammar::kUnlimited;
      skip_space(false);
    }
    if (peek() != '}') fail("'}' is expected: {m}, {m,} or {m,n}");
    ++at_;
    if (max < min) fail_at(begin, "the repetition ends below its beginning");
    return std::pair{min, max};
  }

  Sequence read_sequence(std::size_t depth) {
    Sequence sequence;
    std::size_t last = 0;  // where the element begins that a repetition applies to
    while (!ended()) {
      const char c = peek();
      const std::size_t begin = at_;
      if (const auto times = read_repetition()) {
        if (last == sequence.size()) fail_at(begin, "there is nothing before it to repeat");
        Sequence unit(sequence.begin() + static_cast<std::ptrdiff_t>(last), sequence.end());
        sequence.resize(last);
        if (times->second > 0) {
          sequence.push_back(repeated(std::move(unit), times->first, times->second));
        }
      } else if (c == '"') {
        last = sequence.size();
        read_literal(sequence);
      } else if (c == '[') {
        last = sequence.size();
        sequence.push_back(read_set());
      } else if (c == '.') {
        ++at_;
        last = sequence.size();
        sequence.push_back(add_set({{0, kLastCodePoint}}));
      } else if (c == '(') {
        last = sequence.size();
        sequence.push_back(read_group(depth));
      } else if (is_name_char(c)) {
        const std::uint32_t rule = named(read_name());
        if (!drafts_[rule].first_reference) drafts_[rule].first_reference = begin;
        last = sequence.size();
        sequence.push_back({Kind::kRule, rule});
      } else if (c == '<' || c == '!') {
        fail("references to tokens are not supported: spell the text");
      } else {
        break;
      }
      skip_space(depth > 0);
    }
    return sequence;
  }

  Element read_group(std::size_t depth) {
    if (depth >= Grammar::kMaxNesting) {
      fail(fmt::format("parentheses are nested deeper than {}", Grammar::kMaxNesting));
    }
    const std::size_t begin = at_++;
    skip_space(true);
    const std::uint32_t rule = new_rule();
    auto alternatives = read_alternatives(depth + 1);
    drafts_[rule].alternatives = std::move(alternatives);
    if (peek() != ')') {
      if (ended()) fail_at(begin, "the parenthesis is not closed");
      fail("')' is expected");
    }
    ++at_;
    return {Kind::kRule, rule};
  }

  std::vector<Sequence> read_alternatives(std::size_t depth) {
    std::vector<Sequence> alternatives;
    alternatives.push_back(read_sequence(depth));
    while (peek() == '|') {
      ++at_;
      skip_space(true);
      alternatives.push_back(read_sequence(depth));
    }
    return alternatives;
  }

  void read_rule() {
    const std::size_t begin = at_;
    const std::string name = read_name();
    skip_space(false);
    if (text_.substr(at_, 3) != "::=") fail("\"::=\" is expected after the name of a rule");
    at_ += 3;
    skip_space(true);
    const std::uint32_t rule = named(name);
    if (drafts_[rule].defined_at) {
      fail_at(begin, fmt::format("the rule {} is defined twice", name));
    }
    drafts_[rule].defined_at = begin;
    auto alternatives = read_alternatives(0);
    drafts_[rule].alternatives = std::move(alternatives);
    if (!ended() && peek() != '\n' && peek() != '\r') {
      fail("an element, '|' or the end of the line is expected");
    }
    skip_space(true);
  }

  void parse() {
    if (text_.size() > Grammar::kMaxBytes) {
      throw Fault{
          fmt::format("grammar: {} bytes are more than {}", text_.size(), Grammar::kMaxBytes)};
    }
    if (const std::size_t nul = text_.find('\0'); nul != std::string_view::npos) {
      fail_at(nul, "a NUL must be written \\x00");
    }
    const std::uint32_t start = new_rule();  // Grammar::kStartRule
    const std::uint32_t root = named("root");
    drafts_[start].alternatives.push_back({{Kind::kRule, root}});
    skip_space(true);
    while (!ended()) read_rule();
    if (!drafts_[root].defined_at) throw Fault{"grammar: there is no rule \"root\""};
    for (const auto& [name, rule] : names_) {
      if (!drafts_[rule].defined_at) {
        fail_at(*drafts_[rule].first_reference, fmt::format("there is no rule {}", name));
      }
    }
    compile();
  }

  // ---- compiling --------------------------------------------------------------------------------

  /// Rules of which some alternative has nothing but what `holds`, found from the leaves upwards.
  template <typename Holds>
  std::vector<bool> closure(Holds holds, bool repetition_of_none) const {
    std::vector<bool> found(drafts_.size(), false);
    // Who refers to a rule is looked at again once it is found: each reference once.
    std::vector<std::vector<std::uint32_t>> users(drafts_.size());
    std::vector<std::uint32_t> todo;
    for (std::uint32_t rule = 0; rule < drafts_.size(); ++rule) {
      todo.push_back(rule);
      for (const Sequence& sequence : drafts_[rule].alternatives) {
        for (const Element& element : sequence) {
          if (element.kind == Kind::kRule) users[element.value].push_back(rule);
        }
      }
    }
    const auto satisfied = [&](const Sequence& sequence) {
      return std::all_of(sequence.begin(), sequence.end(), [&](const Element& element) {
        return element.kind == Kind::kRule ? found[element.value] : holds(element);
      });
    };
    while (!todo.empty()) {
      const std::uint32_t rule = todo.back();
      todo.pop_back();
      const Draft& draft = drafts_[rule];
      if (found[rule]) continue;
      if ((repetition_of_none && draft.repeats && draft.min == 0) ||
          std::any_of(draft.alternatives.begin(), draft.alternatives.end(), satisfied)) {
        found[rule] = true;
        todo.insert(todo.end(), users[rule].begin(), users[rule].end());
      }
    }
    return found;
  }

  void compile() {
    const auto empty = closure([](const Element&) { return false; }, true);
    const auto ends = closure(
        [this](const Element& element) {
          return element.kind == Kind::kChar || !grammar_->sets_[element.value].empty();
        },
        true);
    if (!ends[Grammar::kStartRule]) {
      throw Fault{"grammar: no text matches: \"root\" never comes to an end"};
    }
    for (std::uint32_t rule = 0; rule < drafts_.size(); ++rule) {
      const Draft& draft = drafts_[rule];
      Grammar::Rule compiled;
      compiled.may_be_empty = empty[rule];
      compiled.repeats = draft.repeats;
      // What may be empty fills up the minimum by itself.
      compiled.min = empty[rule] ? 0 : draft.min;
      compiled.max = draft.max;
      for (const Sequence& sequence : draft.alternatives) {
        compiled.starts.push_back(static_cast<std::uint32_t>(grammar_->elements_.size()));
        grammar_->elements_.insert(grammar_->elements_.end(), sequence.begin(), sequence.end());
        grammar_->elements_.push_back({draft.repeats ? Kind::kAgain : Kind::kEnd, rule});
      }
      grammar_->rules_.push_back(std::move(compiled));
    }
  }

  std::unique_ptr<Grammar> grammar_{new Grammar};
  std::string_view text_;
  std::size_t at_ = 0;
  std::vector<Draft> drafts_;
  std::map<std::string, std::uint32_t> names_;
};

Result<std::shared_ptr<const Grammar>> Grammar::parse(std::string text) {
  return GrammarParser(std::move(text)).run();
}

}  // namespace weir::model
