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
  EmbeddingJobs jobs(5, 1000);
  const std::vector all = {job({1, 1, 1, 1, 1, 1}), job({1}), job({1, 1})};
  for (const auto& one : all) jobs.add(one);
  const auto first = jobs.pack(5);
  EXPECT_EQ(names(first, all), "abcac");
  EXPECT_EQ(first[3].text, 1U);
  EXPECT_EQ(all[0]->computing, 2U);
  EXPECT_EQ(names(jobs.pack(5), all), "aaaa");
  EXPECT_TRUE(jobs.pack(5).empty());
}

TEST(EmbeddingJobs, TokensBoundABatchAndASmallerTextFillsIt) {
  EmbeddingJobs jobs(32, 100);
  const std::vector all = {job({60, 60}), job({60}), job({30})};
  for (const auto& one : all) jobs.add(one);
  EXPECT_EQ(names(jobs.pack(32), all), "ac");
  // Who was left out comes first.
  EXPECT_EQ(names(jobs.pack(32), all), "b");
  EXPECT_EQ(names(jobs.pack(32), all), "a");
}

TEST(EmbeddingJobs, TextBeyondTheBoundIsABatchOfItsOwn) {
  EmbeddingJobs jobs(32, 100);
  const std::vector all = {job({500, 1}), job({1})};
  for (const auto& one : all) jobs.add(one);
  EXPECT_TRUE(jobs.waiting().is_full);
  EXPECT_EQ(names(jobs.pack(32), all), "a");
  EXPECT_EQ(names(jobs.pack(32), all), "ba");
}

TEST(EmbeddingJobs, UrgentRequestsGoFirstButForOneBatchInFour) {
  EmbeddingJobs jobs(1, 100);
  const std::vector all = {job({1, 1, 1}, 7), job({1, 1, 1, 1, 1, 1}, 0)};
  for (const auto& one : all) jobs.add(one);
  std::string order;
  for (int i = 0; i < 9; ++i) order += names(jobs.pack(1), all);
  EXPECT_EQ(order, "bbbabbbaa");
}

TEST(EmbeddingJobs, TellsWhatWaits) {
  using std::chrono::milliseconds;
  EmbeddingJobs jobs(4, 100);
  EXPECT_EQ(jobs.waiting().texts, 0U);
  EXPECT_TRUE(jobs.wants(7));
  const auto late = job({10, 10}, 4, milliseconds(5));
  const auto early = job({10}, 4, milliseconds(2));
  early->taken.request->deadline = kStart + milliseconds(80);
  late->taken.request->deadline = kStart + milliseconds(90);
  jobs.add(late);
  jobs.add(early);
  const auto waiting = jobs.waiting();
  EXPECT_EQ(waiting.texts, 3U);
  EXPECT_FALSE(waiting.is_full);
  EXPECT_EQ(waiting.oldest, kStart + milliseconds(2));
  EXPECT_EQ(waiting.deadline, kStart + milliseconds(80));
  jobs.add(job({100}));
  EXPECT_TRUE(jobs.waiting().is_full);
  EXPECT_FALSE(jobs.wants(4));
  EXPECT_TRUE(jobs.wants(3));  // more urgent than all of them
}

TEST(EmbeddingJobs, WhoHasFailedIsPassedOverAndEndsWhenNothingOfItIsComputed) {
  EmbeddingJobs jobs(1, 100);
  const auto one = job({1, 1});
  jobs.add(one);
  ASSERT_EQ(jobs.pack(1).size(), 1U);
  one->error = make_error(Code::kCancelled, "gone");
  EXPECT_FALSE(one->ended());
  EXPECT_EQ(jobs.waiting().texts, 0U);
  EXPECT_TRUE(jobs.pack(1).empty());
  --one->computing;
  EXPECT_TRUE(one->ended());
  jobs.forget(one.get());
  EXPECT_TRUE(jobs.all().empty());
}

}  // namespace
}  // namespace weir::model
