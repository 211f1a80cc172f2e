// SPDX-License-Identifier: Apache-2.0
#include "agent/model/grammar.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "agent/model/grammar_matcher.h"

namespace weir::model {
namespace {

std::shared_ptr<const Grammar> grammar(std::string text) {
  auto parsed = Grammar::parse(std::move(text));
  EXPECT_TRUE(parsed.ok()) << parsed.error().message;
  return parsed.ok() ? *parsed : nullptr;
}

bool matches(const std::shared_ptr<const Grammar>& of, std::string_view text) {
  GrammarMatcher matcher(of);
  return matcher.advance(text) && matcher.complete();
}

bool begins(const std::shared_ptr<const Grammar>& of, std::string_view text) {
  GrammarMatcher matcher(of);
  return matcher.accepts(text);
}

struct Case {
  std::string grammar;
  std::vector<std::string> matching;
  std::vector<std::string> beginning;  ///< and not matching
  std::vector<std::string> foreign;
};

TEST(GrammarMatcher, TellsWhatMatchesFromWhatBegins) {
  const std::vector<Case> cases = {
      {"root ::= \"\"", {""}, {}, {"a"}},
      {"root ::= \"ab\"", {"ab"}, {"", "a"}, {"b", "abc", "aa"}},
      {"root ::= \"a\" | \"bc\" |", {"", "a", "bc"}, {"b"}, {"ab", "c"}},
      {"root ::= [a-c\\]x]", {"a", "b", "c", "]", "x"}, {""}, {"d", "ab", "-"}},
      {"root ::= [^a-c\\n]", {"d", "\xC3\xA9", "-"}, {"", "\xC3"}, {"a", "\n", "dd"}},
      {"root ::= . .", {"ab", "\n\n"}, {"", "a"}, {"abc"}},
      {"root ::= [\\x41\\u00e9\\U0001F600]",
       {"A", "\xC3\xA9", "\xF0\x9F\x98\x80"},
       {"", "\xC3", "\xF0\x9F"},
       {"B", "\xC3\xAA", "\xE2", "\xF0\x9F\x98\x81"}},
      {"root ::= \"a\"* \"b\"", {"b", "ab", "aaab"}, {"", "aa"}, {"ba", "c"}},
      {"root ::= \"ab\"+", {"ab", "abab"}, {"", "aba"}, {"b", "abb"}},
      {"root ::= \"a\"? \"b\"?", {"", "a", "b", "ab"}, {}, {"ba", "aa"}},
      {"root ::= [ab]{2}", {"ab", "aa"}, {"", "a"}, {"aaa"}},
      {"root ::= [ab]{2,}", {"ab", "aaaaa"}, {"", "a"}, {"c"}},
      {"root ::= \"x\" [ab]{ 1 , 3 }", {"xa", "xaba"}, {"x"}, {"xabab", "a"}},
      {"root ::= \"x\" [ab]{0}", {"x"}, {""}, {"xa"}},
      {"root ::= \"x\" [ab]{0,1}", {"x", "xa"}, {""}, {"xaa"}},
      {"root ::= (\"a\"? \"b\"?){2,3} \"c\"",
       {"c", "abc", "ababc", "babac", "aaac"},
       {"", "aaa"},
       {"aaaac", "bbbbc"}},
      {"root ::= (\"\" | \"a\"){5} \"b\"", {"b", "aaaaab"}, {"aaaaa"}, {"aaaaaa"}},
      {"root ::= one two # a comment\n\n# another\none ::= (\"a\" |\n  \"b\")\ntwo ::=\n \"c\"",
       {"ac", "bc"},
       {"a"},
       {"c"}},
      // Recursion: in the middle, from the left, and hidden behind what may be empty.
      {"root ::= \"(\" root \")\" | \"\"", {"", "()", "((()))"}, {"(", "(()"}, {")", "())"}},
      {"root ::= root \"+\" [0-9] | [0-9]", {"1", "1+2+3"}, {"", "1+"}, {"+", "1++"}},
      {"root ::= may root \"z\" | \"x\"\nmay ::= other\nother ::= \"\" | \"y\"",
       {"x", "xzz", "yxz", "yyxzz"},
       {"y", "yx"},
       {"z", "xy"}},
      {"root ::= a\na ::= b | \"x\"\nb ::= a | \"y\"", {"x", "y"}, {""}, {"xy"}},
      // Ambiguous.
      {"root ::= root root | \"a\"", {"a", "aaaaaaaa"}, {""}, {"b", "ab"}},
      {"root ::= (\"a\"*)* \"b\"", {"b", "aaab"}, {"aaaa"}, {"ba"}},
  };
  for (const Case& one : cases) {
    const auto compiled = grammar(one.grammar);
    ASSERT_NE(compiled, nullptr) << one.grammar;
    for (const std::string& text : one.matching) {
      EXPECT_TRUE(matches(compiled, text)) << one.grammar << " on " << text;
    }
    for (const std::string& text : one.beginning) {
      EXPECT_FALSE(matches(compiled, text)) << one.grammar << " on " << text;
      EXPECT_TRUE(begins(compiled, text)) << one.grammar << " on " << text;
    }
    for (const std::string& text : one.foreign) {
      EXPECT_FALSE(begins(compiled, text)) << one.grammar << " on " << text;
    }
  }
}

TEST(GrammarMatcher, WhatDoesNotFitChangesNothing) {
  GrammarMatcher matcher(grammar("root ::= \"ab\" \"\\u00e9\" \"c\"*"));
  EXPECT_TRUE(matcher.accepts("ab\xC3"));
  EXPECT_FALSE(matcher.advance("abx"));
  EXPECT_TRUE(matcher.advance("a"));
  EXPECT_FALSE(matcher.advance("ba"));
  EXPECT_TRUE(matcher.advance("b\xC3"));
  EXPECT_FALSE(matcher.complete());
  EXPECT_FALSE(matcher.advance("\xA8"));
  EXPECT_TRUE(
      matcher.accepts("\xA9"
                      "c"));
  EXPECT_TRUE(matcher.advance("\xA9"));
  EXPECT_TRUE(matcher.complete());
  EXPECT_FALSE(matcher.exhausted());
}

TEST(GrammarMatcher, KnowsWhenNothingMayFollow) {
  GrammarMatcher matcher(grammar("root ::= \"a\" (\"b\" | \"\") | \"c\""));
  EXPECT_FALSE(matcher.exhausted());
  EXPECT_TRUE(matcher.advance("a"));
  EXPECT_TRUE(matcher.complete());
  EXPECT_FALSE(matcher.exhausted());
  EXPECT_TRUE(matcher.advance("b"));
  EXPECT_TRUE(matcher.exhausted());
}

TEST(GrammarMatcher, TakesOnlyUtf8) {
  const auto any = grammar("root ::= .*");
  for (const std::string_view bad : {"\xFF", "\x80", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80",
                                     "\xF4\x90\x80\x80", "\xC3(", "\xF8\x88"}) {
    EXPECT_FALSE(begins(any, bad));
  }
}

// What an ambiguous grammar costs grows with a power of the text's length, not exponentially; and
// where even that is too much, the matcher gives up instead of going on.
TEST(GrammarMatcher, AmbiguityIsBounded) {
  // Two ways to read each character: 2^500 stacks.
  GrammarMatcher two_ways(grammar("root ::= \" \" root \"b\" | \" \" root \"c\" | \"\""));
  EXPECT_TRUE(two_ways.advance(std::string(500, ' ')));
  EXPECT_TRUE(two_ways.advance(std::string(500, 'c')));
  EXPECT_TRUE(two_ways.complete());
  EXPECT_FALSE(two_ways.gave_up());

  GrammarMatcher cubic(grammar("root ::= root root root | root root | \"a\""));
  EXPECT_FALSE(cubic.advance(std::string(4000, 'a')));
  EXPECT_TRUE(cubic.gave_up());
}

TEST(GrammarMatcher, LongPlainTextStaysCheap) {
  GrammarMatcher matcher(grammar("root ::= \"[\" ([a-z]+ \",\")* \"]\""));
  ASSERT_TRUE(matcher.advance("["));
  for (int i = 0; i < 20000; ++i) {
    matcher.begin_step();
    ASSERT_TRUE(matcher.advance("abcdefg,")) << i;
  }
  EXPECT_FALSE(matcher.gave_up());
}

TEST(GrammarMatcher, CountsToTheLastRepetition) {
  const auto compiled = grammar("root ::= ([a-z] \";\"){3,5000}");
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "x;";
  EXPECT_TRUE(matches(compiled, text));
  EXPECT_FALSE(begins(compiled, text + "x"));
  EXPECT_FALSE(matches(compiled, "x;x;"));
}

TEST(GrammarMatcher, PiecesMayBeCutAnywhere) {
  const auto compiled = grammar("root ::= (\"\\u20ac\" | [a-c\\U0001F600])* \"!\"");
  const std::string text =
      "ab\xE2\x82\xAC\xF0\x9F\x98\x80"
      "c\xE2\x82\xAC!";
  std::mt19937 random(4);
  for (int round = 0; round < 200; ++round) {
    GrammarMatcher matcher(compiled);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t bytes = std::min<std::size_t>(1 + random() % 4, text.size() - at);
      ASSERT_TRUE(matcher.accepts(std::string_view(text).substr(at, bytes)));
      ASSERT_TRUE(matcher.advance(std::string_view(text).substr(at, bytes)));
      at += bytes;
    }
    EXPECT_TRUE(matcher.exhausted());
  }
}

TEST(Grammar, SaysWhereAndWhatIsWrong) {
  std::string deep = "root ::= ";
  for (int i = 0; i < 65; ++i) deep += '(';
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "grammar: there is no rule \"root\""},
      {"main ::= \"a\"", "grammar: there is no rule \"root\""},
      {"root ::= a", "grammar, line 1, column 10: there is no rule a"},
      {"root = \"a\"", "grammar, line 1, column 6: \"::=\" is expected after the name of a rule"},
      {"root ::= \"a\n\"", "grammar, line 1, column 10: the string has no end"},
      {"root ::= [a", "grammar, line 1, column 10: the set of characters has no end"},
      {"root ::= []", "grammar, line 1, column 10: the set of characters is empty"},
      {"root ::= [z-a]", "grammar, line 1, column 11: the range of characters runs backwards"},
      {"root ::= (\"a\"", "grammar, line 1, column 10: the parenthesis is not closed"},
      {"root ::= (\"a\" ]", "grammar, line 1, column 15: ')' is expected"},
      {"root ::= \"a\" )",
       "grammar, line 1, column 14: an element, '|' or the end of the line is expected"},
      {"root ::= *", "grammar, line 1, column 10: there is nothing before it to repeat"},
      {"root ::= \"a\"{5,2}",
       "grammar, line 1, column 13: the repetition ends below its beginning"},
      {"root ::= \"a\"{2,", "grammar, line 1, column 16: '}' is expected: {m}, {m,} or {m,n}"},
      {"root ::= \"a\"{x}", "grammar, line 1, column 14: a number of repetitions is expected"},
      {"root ::= \"a\"{99999999999999999999}",
       "grammar, line 1, column 14: at most 100000 repetitions"},
      {"root ::= \"\\q\"",
       "grammar, line 1, column 11: unknown escape: there are \\n \\r \\t \\\\ \\\" \\[ \\] \\- "
       "\\xHH \\uHHHH \\UHHHHHHHH"},
      {"root ::= \"\\x4\"", "grammar, line 1, column 14: the escape needs 2 hexadecimal digits"},
      {"root ::= \"\\UFFFFFFFF\"", "grammar, line 1, column 21: the escape is beyond U+10FFFF"},
      {"root ::= \"\xFF\"", "grammar, line 1, column 11: the text is not UTF-8"},
      {"root ::= <[12]>",
       "grammar, line 1, column 10: references to tokens are not supported: spell the text"},
      {"root ::= \"a\"\n\nroot ::= \"b\"",
       "grammar, line 3, column 1: the rule root is defined twice"},
      {"root ::= \"a\"\n x ::= %",
       "grammar, line 2, column 8: an element, '|' or the end of the line is expected"},
      {"root ::= \"a\" root", "grammar: no text matches: \"root\" never comes to an end"},
      {"root ::= root", "grammar: no text matches: \"root\" never comes to an end"},
      {"root ::= [^\\x00-\\U0010FFFF]", "grammar: no text matches: \"root\" never comes to an end"},
      {deep, "grammar, line 1, column 74: parentheses are nested deeper than 64"},
      {"root ::= \"" + std::string(70000, 'a') + '"', "grammar: 70011 bytes are more than 65536"},
      {std::string("root ::= \"a\0\"", 13),
       "grammar, line 1, column 12: a NUL must be written \\x00"},
  };
  for (const auto& [text, message] : cases) {
    const auto parsed = Grammar::parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument);
    EXPECT_EQ(parsed.error().message, message) << text;
  }
}

// Texts that cost a naive reader its memory or its time: each is read or refused within a moment.
TEST(Grammar, HostileTextsAreHarmless) {
  std::string chain;  // each rule twice: 2^2000 ways down
  for (int i = 0; i < 2000; ++i) {
    chain += fmt::format("a{} ::= a{} | a{}\n", i, i + 1, i + 1);
  }
  chain += "a2000 ::= \"x\"\nroot ::= a0";
  EXPECT_TRUE(matches(grammar(chain), "x"));

  std::string repeats = "root ::= \"a\"";
  for (int i = 0; i < 6; ++i) repeats = "root ::= (" + repeats.substr(9) + "){100000}";
  GrammarMatcher matcher(grammar(repeats));
  EXPECT_TRUE(matcher.advance(std::string(3000, 'a')));

  const auto long_repeated = grammar("root ::= \"" + std::string(60000, 'b') + "\"{100000}");
  EXPECT_TRUE(begins(long_repeated, std::string(70000, 'b')));
}

// Whatever bytes come, the answer is a grammar or an error.
TEST(Grammar, SurvivesMutations) {
  const std::string seed =
      "root ::= \"a\" (b | [^x-z\\n]{1,3})* # c\nb ::= . \"\\u20ac\"? | root \"\\\"\"\n";
  const std::string_view alphabet = "\"'[]{}()|*+?.^-\\<>#:=,0123456789abrox \n\xE2\x82\xAC";
  std::mt19937 random(11);
  int parsed = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = seed;
    const unsigned changes = 1 + random() % 4;
    for (unsigned i = 0; i < changes; ++i) {
      const char c = alphabet[random() % alphabet.size()];
      const std::size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1, c);
          break;
        default:
          text.erase(at, 1);
      }
    }
    if (const auto result = Grammar::parse(text)) {
      ++parsed;
      GrammarMatcher follow(*result);
      (void)follow.advance(
          "ab\xE2\x82\xAC"
          "aab\n");
    } else {
      EXPECT_FALSE(result.error().message.empty());
    }
  }
  EXPECT_GT(parsed, 1000);
}

}  // namespace
}  // namespace weir::model
