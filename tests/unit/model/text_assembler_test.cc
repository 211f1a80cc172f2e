// SPDX-License-Identifier: Apache-2.0
#include "agent/model/text_assembler.h"

#include <gtest/gtest.h>

#include <random>

namespace weir::model {
namespace {

TEST(TextAssembler, PassesPlainTextAtOnce) {
  TextAssembler text({});
  EXPECT_EQ(text.push("Once"), "Once");
  EXPECT_EQ(text.push(" upon"), " upon");
  EXPECT_EQ(text.finish(), "");
}

TEST(TextAssembler, HoldsBackACharacterUntilItIsWhole) {
  TextAssembler text({});
  EXPECT_EQ(text.push("a\xF0\x9F"), "a");
  EXPECT_EQ(text.push("\xA6"), "");
  EXPECT_EQ(text.push("\x8A"
                      "b"),
            "\xF0\x9F\xA6\x8A"
            "b");
}

TEST(TextAssembler, ReplacesATailThatNeverCompletes) {
  TextAssembler text({});
  EXPECT_EQ(text.push("a\xE2\x82"), "a");
  EXPECT_EQ(text.finish(), "\xEF\xBF\xBD");
}

TEST(TextAssembler, StopStringInsideOnePiece) {
  TextAssembler text({"END"});
  EXPECT_EQ(text.push("one ENDtwo"), "one ");
  EXPECT_TRUE(text.stopped());
  EXPECT_EQ(text.push("more"), "");
  EXPECT_EQ(text.finish(), "");
}

TEST(TextAssembler, StopStringAcrossPieces) {
  TextAssembler text({"\n\n", "STOP"});
  EXPECT_EQ(text.push("line\n"), "line");
  EXPECT_EQ(text.push("S"), "\n");
  EXPECT_EQ(text.push("T"), "");
  EXPECT_EQ(text.push("O"), "");
  EXPECT_EQ(text.push("P tail"), "");
  EXPECT_TRUE(text.stopped());
}

TEST(TextAssembler, FalseStartOfAStopStringComesOut) {
  TextAssembler text({"aab"});
  EXPECT_EQ(text.push("aa"), "");
  EXPECT_EQ(text.push("a"), "a");
  EXPECT_EQ(text.push("c"), "aac");
  EXPECT_EQ(text.push("a"), "");
  EXPECT_EQ(text.finish(), "a");
  EXPECT_FALSE(text.stopped());
}

TEST(TextAssembler, EarliestStopStringWins) {
  TextAssembler text({"world", "lo w"});
  EXPECT_EQ(text.push("hello world"), "hel");
}

TEST(TextAssembler, EmptyStopStringsAreIgnored) {
  TextAssembler text({"", "x"});
  EXPECT_EQ(text.push("abc"), "abc");
  EXPECT_FALSE(text.stopped());
}

TEST(TextAssembler, StopStringOfManyBytesPerCharacter) {
  TextAssembler text({"\xE2\x82\xAC"});
  EXPECT_EQ(text.push("5\xE2\x82"), "5");
  EXPECT_EQ(text.push("\xAC"), "");
  EXPECT_TRUE(text.stopped());
}

TEST(IncompleteUtf8Tail, CountsOnlyWhatCanStillComplete) {
  EXPECT_EQ(incomplete_utf8_tail(""), 0U);
  EXPECT_EQ(incomplete_utf8_tail("abc"), 0U);
  EXPECT_EQ(incomplete_utf8_tail("\xC3"), 1U);
  EXPECT_EQ(incomplete_utf8_tail("\xC3\xA9"), 0U);
  EXPECT_EQ(incomplete_utf8_tail("\xF0\x9F\xA6"), 3U);
  EXPECT_EQ(incomplete_utf8_tail("\xF0\x8F"), 0U);  // overlong: can never be a character
  EXPECT_EQ(incomplete_utf8_tail("\xED\xA0"), 0U);  // a surrogate
  EXPECT_EQ(incomplete_utf8_tail("\x80"), 0U);
  EXPECT_EQ(incomplete_utf8_tail("\xFF"), 0U);
}

TEST(ReplaceInvalidUtf8, OneReplacementPerMaximalPart) {
  EXPECT_EQ(replace_invalid_utf8("a\xFF"
                                 "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(replace_invalid_utf8("\xE2\x82"
                                 "b"),
            "\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(replace_invalid_utf8("\xC0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(replace_invalid_utf8("\xF0\x9F\xA6\x8A"), "\xF0\x9F\xA6\x8A");
}

// However the bytes are cut into pieces, the same text comes out.
TEST(TextAssembler, CuttingDoesNotChangeTheText) {
  const std::string alphabet[] = {"a",    "b",   "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\xA6\x8A",
                                  "\xFF", "\xE2"};
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    std::string bytes;
    for (int i = 0; i < 40; ++i) {
      bytes += alphabet[random() % std::size(alphabet)];
    }
    const std::vector<std::string> stops{"abba", "b\xC3\xA9",
                                         "\xF0\x9F\xA6\x8A"
                                         "a"};
    std::size_t first_stop = bytes.size();
    for (const auto& stop : stops) {
      first_stop = std::min(first_stop, bytes.find(stop));
    }
    TextAssembler assembler(stops);
    std::string got;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t n = 1 + random() % 5;
      got += assembler.push(std::string_view(bytes).substr(at, n));
      at += n;
    }
    got += assembler.finish();
    ASSERT_EQ(got, replace_invalid_utf8(std::string_view(bytes).substr(0, first_stop)))
        << "seed " << seed;
    ASSERT_EQ(assembler.stopped(), first_stop != bytes.size());
  }
}

}  // namespace
}  // namespace weir::model
