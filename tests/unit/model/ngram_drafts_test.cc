// SPDX-License-Identifier: Apache-2.0
//
// Against a model that searches the whole sequence for each token.
#include "agent/model/ngram_drafts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace weir::model {
namespace {

using Tokens = std::vector<std::int32_t>;

/// What NgramDrafts promises, by looking at everything.
class Reference {
 public:
  explicit Reference(std::size_t most_matched) : most_matched_(most_matched) {}
  std::optional<NgramDrafts::Guess> push(std::int32_t token) {
    std::optional<NgramDrafts::Guess> guess;
    if (next_) {
      guess = NgramDrafts::Guess{matched_, tokens_[*next_] == token};
      if (guess->right) {
        ++*next_;
        matched_ = std::min(matched_ + 1, most_matched_);
      } else {
        next_.reset();
      }
    }
    tokens_.push_back(token);
    if (!next_) search();
    return guess;
  }
  std::optional<std::size_t> matched() const {
    return next_ ? std::optional(matched_) : std::nullopt;
  }
  Tokens draft(std::size_t count) const {
    Tokens all = tokens_;
    for (std::size_t i = 0; i < count; ++i) all.push_back(all[*next_ + i]);
    return {all.end() - static_cast<std::ptrdiff_t>(count), all.end()};
  }

 private:
  /// How many tokens before `end` are as before the end of all.
  std::size_t common(std::size_t end) const {
    std::size_t length = 0;
    while (length < end && tokens_[end - 1 - length] == tokens_[tokens_.size() - 1 - length]) {
      ++length;
    }
    return length;
  }
  void search() {
    std::size_t best = 0;
    for (std::size_t end = 1; end < tokens_.size(); ++end) {
      const std::size_t length = common(end);
      if (std::min<std::size_t>(length, 3) < std::max<std::size_t>(best, 1)) continue;
      best = std::min<std::size_t>(length, 3);
      next_ = end;
      matched_ = best < 3 ? best : std::min(length, most_matched_);
    }
  }
  const std::size_t most_matched_;
  Tokens tokens_;
  std::optional<std::size_t> next_;
  std::size_t matched_ = 0;
};

/// Repeats itself now and then.
Tokens random_text(std::mt19937& random, std::size_t length, std::int32_t vocabulary) {
  Tokens text;
  while (text.size() < length) {
    if (text.size() > 4 && random() % 4 == 0) {
      const std::size_t from = random() % text.size();
      const std::size_t count = 1 + random() % 30;
      for (std::size_t i = 0; i < count; ++i) text.push_back(text[from + i]);
    } else {
      text.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocabulary)));
    }
  }
  text.resize(length);
  return text;
}

TEST(NgramDrafts, GuessesWhatFollowedTheLongestMatch) {
  std::mt19937 random(3);
  std::size_t guesses = 0;
  for (int round = 0; round < 60; ++round) {
    const Tokens text = random_text(random, 50 + random() % 700, round % 3 == 0 ? 4 : 200);
    NgramDrafts drafts;
    Reference reference(64);
    for (std::size_t i = 0; i < text.size(); ++i) {
      const std::span so_far(text.data(), i + 1);
      const auto expected = reference.push(text[i]);
      const auto found = drafts.take_in(so_far);
      ASSERT_EQ(found.has_value(), expected.has_value()) << round << ' ' << i;
      if (found) {
        ASSERT_EQ(found->matched, expected->matched) << round << ' ' << i;
        ASSERT_EQ(found->right, expected->right) << round << ' ' << i;
      }
      ASSERT_EQ(drafts.matched(), reference.matched()) << round << ' ' << i;
      if (!drafts.matched()) continue;
      ++guesses;
      const std::size_t count = 1 + random() % 40;
      ASSERT_EQ(drafts.draft(so_far, count), reference.draft(count)) << round << ' ' << i;
    }
    EXPECT_EQ(drafts.seen(), text.size());
  }
  EXPECT_GT(guesses, 10'000U);
}

TEST(NgramDrafts, GoesRoundWhereTheTextDoes) {
  const Tokens text = {9, 1, 2, 3, 1, 2, 3};
  NgramDrafts drafts;
  while (drafts.seen() < text.size()) drafts.take_in(text);
  EXPECT_EQ(drafts.draft(text, 8), (Tokens{1, 2, 3, 1, 2, 3, 1, 2}));
}

TEST(NgramDrafts, HasNoGuessForWhatIsNew) {
  Tokens text;
  NgramDrafts drafts;
  for (std::int32_t token = 0; token < 1000; ++token) {
    text.push_back(token);
    EXPECT_FALSE(drafts.take_in(text));
    EXPECT_FALSE(drafts.matched());
  }
}

// What was said longer ago than the bound is forgotten, what was said within half of it is not.
TEST(NgramDrafts, RemembersTheLastTokensOnly) {
  for (const std::int32_t between : {90, 250}) {
    NgramDrafts drafts(200);
    Tokens text = {1, 2, 3, 4};
    for (std::int32_t i = 0; i < between; ++i) text.push_back(100 + i);
    text.insert(text.end(), {1, 2, 3});
    while (drafts.seen() < text.size()) drafts.take_in(text);
    if (between == 90) {
      ASSERT_EQ(drafts.matched(), 3U);
      EXPECT_EQ(drafts.draft(text, 2), (Tokens{4, 100}));
    } else {
      EXPECT_FALSE(drafts.matched());
    }
  }
}

// Whatever is forgotten, a guess is what has followed the same tokens before.
TEST(NgramDrafts, GuessesOnlyWhatHasBeenSaid) {
  std::mt19937 random(5);
  NgramDrafts drafts(100);
  const Tokens text = random_text(random, 5000, 50);
  while (drafts.seen() < text.size()) {
    drafts.take_in(text);
    const std::span so_far(text.data(), drafts.seen());
    const auto matched = drafts.matched();
    if (!matched) continue;
    const std::int32_t next = drafts.draft(so_far, 1).front();
    Tokens expected(so_far.end() - static_cast<std::ptrdiff_t>(*matched), so_far.end());
    expected.push_back(next);
    EXPECT_NE(std::search(so_far.begin(), so_far.end(), expected.begin(), expected.end()),
              so_far.end());
  }
}

}  // namespace
}  // namespace weir::model
