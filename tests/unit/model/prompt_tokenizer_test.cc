// SPDX-License-Identifier: Apache-2.0
//
// Prompts tokenized beside the engine, with the vocabulary of the shipped model.
#include "agent/model/prompt_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <random>
#include <thread>

#include "agent/model/llama_log.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

/// In a context of 512 tokens this fits, and it is too long to be tokenized where it is submitted.
std::string long_prompt() {
  std::string prompt;
  while (prompt.size() <= PromptTokenizer::kShortPromptBytes) prompt += "Once upon a time. ";
  return prompt;
}

struct PromptTokenizerTest : testing::Test {
  PromptTokenizerTest() {
    init_llama();
    auto loaded = LoadedModel::load(shipped(), [](float) { return true; });
    if (loaded) model.emplace(std::move(*loaded));
    pool = *schedule::WorkerPool::create({.min_workers = 2, .max_workers = 2});
    queue = RequestQueue::create({}, 4, clock, timers);
  }
  ~PromptTokenizerTest() override {
    queue->fail_waiting(make_error(Code::kUnavailable, "the test is over"));
    queue->close();
  }
  void begin() {
    ASSERT_TRUE(model);
    tokenizer.emplace(*queue, *model, *pool);
  }
  /// Keeps both workers busy while it lives.
  class Busy {
   public:
    explicit Busy(schedule::WorkerPool& pool) {
      for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(pool.submit([latches = latches_] {
          latches->reached.count_down();
          latches->opened.wait();
        }),
                  schedule::WorkerPool::Submitted::kAccepted);
      }
      latches_->reached.wait();
    }
    ~Busy() { latches_->opened.count_down(); }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    struct Latches {
      std::latch reached{2};
      std::latch opened{1};
    };
    /// Shared: a worker may still be on its way out when this goes.
    const std::shared_ptr<Latches> latches_ = std::make_shared<Latches>();
  };
  /// Waits until one can be taken.
  Taken take_one() {
    if (!queue->has_work()) queue->wait_for_work();
    auto taken = queue->take(1);
    EXPECT_EQ(taken.size(), 1U);
    return std::move(taken.at(0));
  }

  const SteadyClock clock;
  schedule::TimerThread timers{clock};
  std::optional<LoadedModel> model;
  std::unique_ptr<schedule::WorkerPool> pool;
  std::shared_ptr<RequestQueue> queue;
  std::optional<PromptTokenizer> tokenizer;
};

TEST_F(PromptTokenizerTest, ShortOnesAreReadyWhenTheyAreSubmitted) {
  begin();
  const Busy busy(*pool);
  const Call call = greedy_call("Once upon a time", 10);
  ASSERT_FALSE(queue->submit(call.request));
  Taken taken = take_one();
  EXPECT_EQ(taken.prompt, *model->vocabulary().tokenize("Once upon a time"));
  EXPECT_EQ(taken.estimated_tokens, taken.prompt.size() + 10);
  queue->settle({{std::move(taken), Completion{}, 1}});
}

TEST_F(PromptTokenizerTest, LongOnesAreReadyWhenAWorkerHasCome) {
  begin();
  const Call call = greedy_call(long_prompt(), 10);
  {
    const Busy busy(*pool);
    ASSERT_FALSE(queue->submit(call.request));
    EXPECT_FALSE(queue->has_work());
  }
  Taken taken = take_one();
  EXPECT_EQ(taken.prompt, *model->vocabulary().tokenize(call.request->prompt));
  queue->settle({{std::move(taken), Completion{}, 1}});
}

TEST_F(PromptTokenizerTest, TokenizesWhatWaitedForTheModel) {
  const Call brief = greedy_call("Once upon a time", 10);
  const Call wordy = greedy_call(long_prompt(), 10);
  ASSERT_FALSE(queue->submit(wordy.request));
  ASSERT_FALSE(queue->submit(brief.request));
  begin();
  for (int i = 0; i < 2; ++i) {
    Taken taken = take_one();
    EXPECT_EQ(taken.prompt, *model->vocabulary().tokenize(taken.request->prompt));
    queue->settle({{std::move(taken), Completion{}, 1}});
  }
}

TEST_F(PromptTokenizerTest, WhatTheContextDoesNotHoldEndsItsRequest) {
  begin();
  const Call endless = greedy_call(std::string(100'000, 'a'), 10);
  ASSERT_FALSE(queue->submit(endless.request));
  ASSERT_TRUE(endless.heard->wait_end());
  EXPECT_EQ(endless.heard->error()->code, Code::kInvalidArgument);
  EXPECT_THAT(endless.heard->error()->message, HasSubstr("the context of this model holds 512"));
  EXPECT_FALSE(queue->has_work());
}

TEST_F(PromptTokenizerTest, ASubmitterWhoFindsThePoolFullDoesItItself) {
  pool = *schedule::WorkerPool::create({.min_workers = 2, .max_workers = 2, .max_queued = 2});
  begin();
  const Busy busy(*pool);
  std::vector<Call> calls;
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(queue->has_work());
    calls.push_back(greedy_call(long_prompt(), 10));
    ASSERT_FALSE(queue->submit(calls.back().request));
  }
  EXPECT_EQ(pool->read().refused_full, 1U);
  Taken taken = take_one();
  EXPECT_EQ(taken.request, calls[2].request);
  queue->settle({{std::move(taken), Completion{}, 1}});
}

TEST_F(PromptTokenizerTest, WaitsForThePromptsInHandAndTokenizesNoneThatLeft) {
  begin();
  std::vector<Call> calls;
  {
    const Busy busy(*pool);
    for (int i = 0; i < 20; ++i) {
      calls.push_back(greedy_call(std::string(1'000'000, 'a'), 10));
      ASSERT_FALSE(queue->submit(calls.back().request));
    }
    queue->fail_waiting(make_error(Code::kUnavailable, "the agent is stopping"));
  }
  tokenizer.reset();
  model.reset();  // nobody uses it any more
  for (const Call& call : calls) EXPECT_EQ(call.heard->ends(), 1);
}

// Clients that leave while their prompts are tokenized, beside an engine that takes.
TEST_F(PromptTokenizerTest, EveryRequestEndsOnceWhileManySubmitAndCancel) {
  constexpr unsigned kThreads = 3;
  constexpr unsigned kEach = 200;
  begin();
  const std::string wordy = long_prompt();
  const auto tokens = *model->vocabulary().tokenize(wordy);
  std::atomic<bool> stopping{false};
  std::jthread executor([&] {
    while (!stopping) {
      if (!queue->has_work()) {
        queue->wait_for_work();
        continue;
      }
      std::vector<Outcome> outcomes;
      for (Taken& one : queue->take(4)) {
        if (one.request->prompt == wordy) {
          EXPECT_EQ(one.prompt, tokens);
        }
        auto reason = reason_to_leave(*one.request, clock.now());
        outcomes.push_back(reason ? Outcome{std::move(one), std::move(*reason), 0}
                                  : Outcome{std::move(one), Completion{}, 5});
      }
      queue->settle(outcomes);
    }
  });
  std::vector<std::vector<Call>> calls(kThreads);
  std::atomic<std::uint64_t> accepted{0};
  {
    std::vector<std::jthread> clients;
    for (unsigned t = 0; t < kThreads; ++t) {
      clients.emplace_back([&, t] {
        std::mt19937 random(t);
        for (unsigned i = 0; i < kEach; ++i) {
          Call call = greedy_call(random() % 4 == 0 ? "Once upon a time" : wordy, 10);
          if (random() % 4 == 0) {
            call.request->deadline = clock.now() + std::chrono::microseconds(random() % 4000);
          }
          calls[t].push_back(call);
          if (!queue->submit(call.request)) ++accepted;
          if (random() % 2 == 0) calls[t][random() % calls[t].size()].request->cancel();
        }
      });
    }
  }
  EXPECT_TRUE(queue->wait_idle(clock.now() + seconds(60)));
  stopping = true;
  queue->poke();
  executor.join();
  ModelInfo info;
  queue->read(info);
  EXPECT_EQ(info.accepted, accepted);
  EXPECT_EQ(info.completed + info.cancelled + info.expired, accepted);
  EXPECT_EQ(info.queued, 0U);
  EXPECT_EQ(info.queued_tokens, 0U);
  std::uint64_t ends = 0;
  for (const auto& of_thread : calls) {
    for (const Call& call : of_thread) {
      EXPECT_LE(call.heard->ends(), 1);
      ends += static_cast<std::uint64_t>(call.heard->ends());
    }
  }
  EXPECT_EQ(ends, accepted);
}

}  // namespace
}  // namespace weir::model
