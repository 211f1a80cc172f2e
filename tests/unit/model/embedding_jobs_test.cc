// SPDX-License-Identifier: Apache-2.0
//
// Which texts go into a batch.
#include "agent/model/embedding_jobs.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace weir::model {
namespace {

constexpr TimePoint kStart{};

/// A request whose texts have so many tokens each.
std::shared_ptr<EmbeddingJob> job(const std::vector<std::size_t>& texts, std::int32_t priority = 4,
                                  Duration accepted = {}) {
  std::vector<std::vector<std::int32_t>> tokens;
  for (const std::size_t length : texts) tokens.emplace_back(length, 7);
  Taken taken;
  taken.request = std::make_shared<GenerationRequest>();
  taken.request->priority = priority;
  taken.prompt = TokenLists::join(tokens);
  taken.accepted = kStart + accepted;
  return std::make_shared<EmbeddingJob>(std::move(taken), 2);
}

/// How many texts of each job are in the batch, as "ab": the first letter is that of `jobs[0]`.
std::string names(const std::vector<EmbeddingPiece>& pieces,
                  const std::vector<std::shared_ptr<EmbeddingJob>>& jobs) {
  std::string text;
  for (const EmbeddingPiece& piece : pieces) {
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      if (piece.job == jobs[i]) text += static_cast<char>('a' + i);
    }
  }
  return text;
}

TEST(TokenLists, ReadsWhatWasJoined) {
  const std::vector<std::vector<std::int32_t>> texts = {{1, 2, 3}, {4}, {5, 6}};
  const auto joined = TokenLists::join(texts);
  const TokenLists lists(joined);
  ASSERT_EQ(lists.size(), 3U);
  EXPECT_EQ(lists.tokens(), 6U);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(std::vector(lists[i].begin(), lists[i].end()), texts[i]);
  }
  EXPECT_EQ(TokenLists({}).size(), 0U);
  EXPECT_EQ(TokenLists({}).tokens(), 0U);
}

TEST(EmbeddingJobs, EachRequestGetsATextInTurn) {
  constexpr EmbeddingBound kBound{5, 1000};
  EmbeddingJobs jobs;
  const std::vector all = {job({1, 1, 1, 1, 1, 1}), job({1}), job({1, 1})};
  for (const auto& one : all) jobs.add(one);
  const auto first = jobs.pack(kBound);
  EXPECT_EQ(names(first, all), "abcac");
  EXPECT_EQ(first[3].text, 1U);
  EXPECT_EQ(all[0]->computing, 2U);
  EXPECT_EQ(names(jobs.pack(kBound), all), "aaaa");
  EXPECT_TRUE(jobs.pack(kBound).empty());
}

TEST(EmbeddingJobs, TokensBoundABatchAndASmallerTextFillsIt) {
  constexpr EmbeddingBound kBound{32, 100};
  EmbeddingJobs jobs;
  const std::vector all = {job({60, 60}), job({60}), job({30})};
  for (const auto& one : all) jobs.add(one);
  EXPECT_EQ(names(jobs.pack(kBound), all), "ac");
  // Who was left out comes first.
  EXPECT_EQ(names(jobs.pack(kBound), all), "b");
  EXPECT_EQ(names(jobs.pack(kBound), all), "a");
}

TEST(EmbeddingJobs, TextBeyondTheBoundIsABatchOfItsOwn) {
  constexpr EmbeddingBound kBound{32, 100};
  EmbeddingJobs jobs;
  const std::vector all = {job({500, 1}), job({1})};
  for (const auto& one : all) jobs.add(one);
  EXPECT_TRUE(jobs.waiting(kBound).fills(kBound));
  EXPECT_EQ(names(jobs.pack(kBound), all), "a");
  EXPECT_EQ(names(jobs.pack(kBound), all), "ba");
}

TEST(EmbeddingJobs, UrgentRequestsGoFirstButForOneBatchInFour) {
  constexpr EmbeddingBound kBound{1, 100};
  EmbeddingJobs jobs;
  const std::vector all = {job({1, 1, 1}, 7), job({1, 1, 1, 1, 1, 1}, 0)};
  for (const auto& one : all) jobs.add(one);
  std::string order;
  for (int i = 0; i < 9; ++i) order += names(jobs.pack(kBound), all);
  EXPECT_EQ(order, "bbbabbbaa");
}

TEST(EmbeddingJobs, TellsWhatWaits) {
  using std::chrono::milliseconds;
  constexpr EmbeddingBound kBound{4, 100};
  EmbeddingJobs jobs;
  EXPECT_EQ(jobs.waiting(kBound).texts, 0U);
  EXPECT_TRUE(jobs.wants(7, kBound));
  const auto late = job({10, 10}, 4, milliseconds(5));
  const auto early = job({10}, 4, milliseconds(2));
  early->taken.request->deadline = kStart + milliseconds(80);
  late->taken.request->deadline = kStart + milliseconds(90);
  jobs.add(late);
  jobs.add(early);
  const auto waiting = jobs.waiting(kBound);
  EXPECT_EQ(waiting.texts, 3U);
  EXPECT_FALSE(waiting.fills(kBound));
  EXPECT_EQ(waiting.oldest, kStart + milliseconds(2));
  EXPECT_EQ(waiting.deadline, kStart + milliseconds(80));
  jobs.add(job({100}));
  EXPECT_TRUE(jobs.waiting(kBound).fills(kBound));
  EXPECT_FALSE(jobs.wants(4, kBound));
  EXPECT_TRUE(jobs.wants(3, kBound));  // more urgent than all of them
}

TEST(EmbeddingJobs, WhatWaitsIsSharedOutAmongInstances) {
  constexpr EmbeddingBound kBound{32, 100};
  EmbeddingJobs jobs;
  const std::vector all = {job({20, 20, 20}), job({20}), job({25, 5})};
  for (const auto& one : all) jobs.add(one);
  const auto waiting = jobs.waiting(kBound.times(3));
  EXPECT_EQ(waiting.tokens, 110U);
  EXPECT_FALSE(waiting.fills(kBound.times(3)));
  const EmbeddingBound third = kBound.share(waiting.tokens, 3);
  EXPECT_EQ(third.tokens, 37U);
  EXPECT_EQ(third.texts, 32U);
  EXPECT_EQ(names(jobs.pack(third), all), "a");  // two more of them would be 40 tokens
  EXPECT_EQ(names(jobs.pack(third), all), "b");
  EXPECT_EQ(names(jobs.pack(third), all), "cc");
  EXPECT_EQ(names(jobs.pack(kBound), all), "aa");
  // With plenty there is no less than a whole batch for each.
  EXPECT_EQ(kBound.share(1000, 3).tokens, 100U);
  EXPECT_EQ(kBound.share(0, 3).tokens, 1U);
}

TEST(EmbeddingJobs, WhoHasFailedIsPassedOverAndEndsWhenNothingOfItIsComputed) {
  constexpr EmbeddingBound kBound{1, 100};
  EmbeddingJobs jobs;
  const auto one = job({1, 1});
  jobs.add(one);
  ASSERT_EQ(jobs.pack(kBound).size(), 1U);
  one->error = make_error(Code::kCancelled, "gone");
  EXPECT_FALSE(one->ended());
  EXPECT_EQ(jobs.waiting(kBound).texts, 0U);
  EXPECT_TRUE(jobs.pack(kBound).empty());
  --one->computing;
  EXPECT_TRUE(one->ended());
  jobs.forget(one.get());
  EXPECT_TRUE(jobs.all().empty());
}

}  // namespace
}  // namespace weir::model
