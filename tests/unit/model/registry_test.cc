// SPDX-License-Identifier: Apache-2.0
//
// Queueing, loading, cancelling and draining, with the shipped model.
#include "agent/model/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <latch>
#include <random>
#include <thread>

#include "tests/fixtures/fake_clock.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;

std::string create_error(const ModelOptions& options) {
  const FakeClock clock;
  const auto registry = Registry::create({options}, clock, workers());
  return registry.ok() ? "accepted" : registry.error().message;
}

TEST(Registry, ValidatesOptions) {
  ModelOptions options = shipped();
  EXPECT_EQ(create_error(options), "accepted");
  options.name = "a b";
  EXPECT_THAT(create_error(options), HasSubstr("name must be"));
  options = shipped(0);
  EXPECT_EQ(create_error(options), "model \"tiny\": max_sequences must be 1..256, not 0");
  EXPECT_THAT(create_error(shipped(257)), HasSubstr("not 257"));
  options = shipped();
  options.path.clear();
  EXPECT_THAT(create_error(options), HasSubstr("path is missing"));
  options = shipped();
  options.context_tokens = 31;
  EXPECT_THAT(create_error(options), HasSubstr("context_tokens must be 32..1048576"));
  options = shipped();
  options.max_queue = 0;
  EXPECT_THAT(create_error(options), HasSubstr("max_queue"));
  options = shipped();
  options.threads = 0;
  EXPECT_THAT(create_error(options), HasSubstr("threads"));
  const FakeClock clock;
  const auto twice = Registry::create({shipped(), shipped()}, clock, workers());
  ASSERT_FALSE(twice.ok());
  EXPECT_THAT(twice.error().message, HasSubstr("twice"));
}

TEST(Registry, KnowsItsModelsBeforeTheyAreLoaded) {
  const FakeClock clock;
  const auto registry = make_registry(shipped(), clock);
  EXPECT_TRUE(registry->has_model("tiny"));
  EXPECT_FALSE(registry->has_model("other"));
  const ModelInfo info = registry->models().at(0);
  EXPECT_EQ(info.state, ModelInfo::State::kUnloaded);
  EXPECT_EQ(info.loads, 0U);
  EXPECT_EQ(info.file_bytes, std::filesystem::file_size(kShippedModel));
  EXPECT_GT(info.created_unix_seconds, 0);
}

TEST(Registry, SixteenFirstRequestsLoadOnce) {
  const SteadyClock clock;
  const auto registry = make_registry(shipped(), clock);
  std::vector<Call> calls;
  for (int i = 0; i < 16; ++i) {
    calls.push_back(greedy_call("Once upon a time", 5));
  }
  std::latch start(16);
  {
    std::vector<std::jthread> threads;
    for (const Call& call : calls) {
      threads.emplace_back([&] {
        start.arrive_and_wait();
        EXPECT_FALSE(registry->submit("tiny", call.request));
      });
    }
  }
  for (const Call& call : calls) {
    ASSERT_TRUE(call.heard->wait_end());
    EXPECT_TRUE(call.heard->completion());
  }
  ASSERT_TRUE(registry->wait_idle(seconds(60)));
  const ModelInfo info = registry->models().at(0);
  EXPECT_EQ(info.loads, 1U);
  EXPECT_EQ(info.state, ModelInfo::State::kReady);
  EXPECT_EQ(info.load_progress, 1.0F);
  EXPECT_EQ(info.parameters, 1115520U);
  EXPECT_EQ(info.context_tokens, 512U);
  EXPECT_EQ(info.accepted, 16U);
  EXPECT_EQ(info.completed, 16U);
  EXPECT_EQ(info.completion_tokens, 80U);
}

TEST(Registry, PreloadLoadsWithoutARequest) {
  const SteadyClock clock;
  ModelOptions options = shipped();
  options.preload = true;
  const auto registry = make_registry(options, clock);
  const auto give_up = clock.now() + seconds(60);
  while (registry->models().at(0).state != ModelInfo::State::kReady && clock.now() < give_up) {
    std::this_thread::yield();
  }
  EXPECT_EQ(registry->models().at(0).loads, 1U);
  EXPECT_EQ(registry->models().at(0).accepted, 0U);
}

TEST(Registry, SixtyFourRequestsShareEightSequences) {
  const SteadyClock clock;
  const auto registry = make_registry(shipped(), clock);
  std::vector<Call> calls;
  for (int i = 0; i < 64; ++i) {
    calls.push_back(greedy_call(i % 2 == 0 ? "Once upon a time" : "One windy day", 60));
    ASSERT_FALSE(registry->submit("tiny", calls.back().request));
  }
  ASSERT_TRUE(registry->wait_idle(seconds(120)));
  for (std::size_t i = 0; i < calls.size(); ++i) {
    EXPECT_EQ(calls[i].heard->ends(), 1);
    ASSERT_TRUE(calls[i].heard->completion());
    EXPECT_EQ(calls[i].heard->text(), calls[i % 2].heard->text());
  }
  const ModelInfo info = registry->models().at(0);
  EXPECT_EQ(info.completed, 64U);
  EXPECT_EQ(info.running, 0U);
  EXPECT_EQ(info.queued, 0U);
  // 64 x 60 tokens one by one would be 3840 steps; eight at a time need an eighth.
  EXPECT_LE(info.decode_steps, 3840U / 8 + 64);
}

TEST(Registry, FullQueueRefusesWithRetryAfter) {
  const SteadyClock clock;
  Gate gate;
  ModelOptions options = shipped(1);
  options.max_queue = 3;
  const auto registry = make_registry(options, clock);
  std::vector<Call> calls{greedy_call("Once upon a time", 3, [&] { gate.pass(); })};
  ASSERT_FALSE(registry->submit("tiny", calls[0].request));
  ASSERT_TRUE(gate.wait_reached());
  for (int i = 0; i < 3; ++i) {
    calls.push_back(greedy_call("Once upon a time", 3));
    ASSERT_FALSE(registry->submit("tiny", calls.back().request));
  }
  EXPECT_EQ(registry->models().at(0).queued, 3U);
  EXPECT_EQ(registry->models().at(0).running, 1U);
  const Call refused = greedy_call("Once upon a time", 3);
  const auto refusal = registry->submit("tiny", refused.request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kQueueFull);
  EXPECT_EQ(refusal->retry_after, seconds(5));  // nothing measured yet
  gate.open();
  ASSERT_TRUE(registry->wait_idle(seconds(60)));
  EXPECT_EQ(refused.heard->ends(), 0);
  EXPECT_EQ(registry->models().at(0).refused[static_cast<std::size_t>(RefusalReason::kQueueFull)],
            1U);
  EXPECT_EQ(registry->models().at(0).accepted, 4U);
  EXPECT_EQ(registry->models().at(0).completed, 4U);
}

TEST(Registry, LongPromptsAreTokenizedWhileTheEngineIsInsideAStep) {
  const SteadyClock clock;
  Gate gate;
  const auto registry = make_registry(shipped(8), clock);
  const Call running = greedy_call("Once upon a time", 60, [&] { gate.pass(); });
  ASSERT_FALSE(registry->submit("tiny", running.request));
  ASSERT_TRUE(gate.wait_reached());
  std::vector<Call> long_ones;
  for (int i = 0; i < 4; ++i) {
    long_ones.push_back(greedy_call(std::string(100'000, 'a'), 5));  // more than the context holds
    ASSERT_FALSE(registry->submit("tiny", long_ones.back().request));
  }
  for (const Call& call : long_ones) {
    ASSERT_TRUE(call.heard->wait_end());
    EXPECT_EQ(call.heard->error()->code, Code::kInvalidArgument);
  }
  EXPECT_EQ(running.heard->ends(), 0);
  gate.open();
  ASSERT_TRUE(registry->wait_idle(seconds(60)));
  EXPECT_TRUE(running.heard->completion());
}

TEST(Registry, RunningSequencesGoOnWhileALongPromptIsRead) {
  const SteadyClock clock;
  std::atomic<int> pieces{0};
  Gate gate;
  const auto registry = make_registry(shipped(2), clock);
  const Call running = greedy_call("Once upon a time", 60, [&] {
    ++pieces;
    gate.pass();
  });
  ASSERT_FALSE(registry->submit("tiny", running.request));
  ASSERT_TRUE(gate.wait_reached());
  std::string prompt;
  for (int i = 0; i < 80; ++i) prompt += "Once upon a time. ";
  std::atomic<int> answered_at{0};
  const Call reader = greedy_call(prompt, 1, [&] { answered_at = pieces.load(); });
  ASSERT_FALSE(registry->submit("tiny", reader.request));
  gate.open();
  ASSERT_TRUE(registry->wait_idle(seconds(60)));
  ASSERT_TRUE(reader.heard->completion());
  EXPECT_EQ(reader.heard->completion()->usage.prompt_tokens, 481U);
  // Four steps of at most 128 tokens, and a piece of the other sequence in each; some more while
  // the prompt was tokenized.
  EXPECT_GE(answered_at, 1 + 4);
}

TEST(Registry, PriorityThenDeadlineThenArrivalWhenSaturated) {
  const SteadyClock clock;
  Gate gate;
  const auto registry = make_registry(shipped(1), clock);
  const Call blocker = greedy_call("Once upon a time", 2, [&] { gate.pass(); });
  ASSERT_FALSE(registry->submit("tiny", blocker.request));
  ASSERT_TRUE(gate.wait_reached());
  struct Wish {
    int priority;
    std::optional<int> deadline_s;
    int place;
  };
  const Wish wishes[] = {{6, std::nullopt, 5}, {4, std::nullopt, 3}, {4, 900, 2},
                         {4, 600, 1},          {1, std::nullopt, 0}, {4, std::nullopt, 4}};
  std::vector<Call> in_order(std::size(wishes));
  for (const Wish& wish : wishes) {
    Call call = greedy_call("One windy day", 2);
    call.request->priority = wish.priority;
    if (wish.deadline_s) {
      call.request->deadline = clock.now() + seconds(*wish.deadline_s);
    }
    ASSERT_FALSE(registry->submit("tiny", call.request));
    in_order[static_cast<std::size_t>(wish.place)] = call;
  }
  gate.open();
  ASSERT_TRUE(registry->wait_idle(seconds(60)));
  for (std::size_t i = 1; i < in_order.size(); ++i) {
    EXPECT_LT(in_order[i - 1].heard->ended_at(), in_order[i].heard->ended_at()) << i;
  }
}

TEST(Registry, FiftyRandomCancelsFreeEverything) {
  const SteadyClock clock;
  std::mt19937 random(1);
  std::vector<Call> calls;
  const auto registry = make_registry(shipped(), clock);
  for (int i = 0; i < 50; ++i) {
    // Its own listener cancels it after some pieces, at the latest: no story is that short.
    auto pieces_left = std::make_shared<unsigned>(1 + random() % 40);
    auto target = std::make_shared<std::weak_ptr<GenerationRequest>>();
    calls.push_back(greedy_call("Once upon a time", 400, [pieces_left, target] {
      const auto request = target->lock();
      if (--*pieces_left == 0 && request) {
        request->cancel();
      }
    }));
    *target = calls.back().request;
    ASSERT_FALSE(registry->submit("tiny", calls.back().request));
  }
  ASSERT_TRUE(calls[0].heard->wait_pieces(1));
  // And half of them, waiting or running, from another thread.
  std::shuffle(calls.begin(), calls.end(), random);
  for (std::size_t i = 0; i < 25; ++i) {
    calls[i].request->cancel();
  }
  ASSERT_TRUE(registry->wait_idle(seconds(60)));
  const ModelInfo info = registry->models().at(0);
  EXPECT_EQ(info.running, 0U);
  EXPECT_EQ(info.queued, 0U);
  EXPECT_EQ(info.cancelled, 50U);
  EXPECT_EQ(info.failed, 0U);
  for (const Call& call : calls) {
    EXPECT_EQ(call.heard->ends(), 1);
    EXPECT_EQ(call.heard->late_events(), 0);
    ASSERT_TRUE(call.heard->error());
    EXPECT_EQ(call.heard->error()->code, Code::kCancelled);
  }
  // The sequences are clean: the next one tells the usual story.
  const Call after = greedy_call("Once upon a time", 400);
  ASSERT_FALSE(registry->submit("tiny", after.request));
  ASSERT_TRUE(after.heard->wait_end());
  EXPECT_EQ(after.heard->completion()->reason, FinishReason::kStop);
}

TEST(Registry, CancelledAndExpiredLeaveTheQueueBeforeASequenceIsFree) {
  FakeClock clock;
  Gate gate;
  const auto registry = make_registry(shipped(1), clock);
  const Call blocker = greedy_call("Once upon a time", 300, [&] { gate.pass(); });
  ASSERT_FALSE(registry->submit("tiny", blocker.request));
  ASSERT_TRUE(gate.wait_reached());
  const Call cancelled = greedy_call("One windy day", 5);
  const Call expired = greedy_call("One windy day", 5);
  const Call patient = greedy_call("One windy day", 5);
  expired.request->deadline = clock.now() + seconds(1);
  patient.request->deadline = clock.now() + seconds(1000);
  for (const Call* call : {&cancelled, &expired, &patient}) {
    ASSERT_FALSE(registry->submit("tiny", call->request));
  }
  cancelled.request->cancel();
  clock.advance(seconds(2));
  gate.open();
  ASSERT_TRUE(registry->wait_idle(seconds(60)));
  EXPECT_EQ(cancelled.heard->error()->code, Code::kCancelled);
  EXPECT_EQ(expired.heard->error()->code, Code::kResourceExhausted);
  EXPECT_THAT(expired.heard->error()->message, HasSubstr("1000 ms ago"));
  EXPECT_LT(cancelled.heard->ended_at(), blocker.heard->ended_at());
  EXPECT_LT(expired.heard->ended_at(), blocker.heard->ended_at());
  EXPECT_TRUE(patient.heard->completion());
}

TEST(Registry, DeadlineEndsARunningRequest) {
  FakeClock clock;
  Gate gate;
  const auto registry = make_registry(shipped(2), clock);
  const Call call = greedy_call("Once upon a time", 400, [&] { gate.pass(); });
  call.request->deadline = clock.now() + seconds(10);
  ASSERT_FALSE(registry->submit("tiny", call.request));
  ASSERT_TRUE(gate.wait_reached());
  clock.advance(seconds(10));
  gate.open();
  ASSERT_TRUE(call.heard->wait_end());
  ASSERT_TRUE(call.heard->error());
  EXPECT_EQ(call.heard->error()->code, Code::kResourceExhausted);
}

TEST(Registry, RefusesWhatIsLateOrCancelledAlready) {
  FakeClock clock;
  const auto registry = make_registry(shipped(), clock);
  const Call late = greedy_call("Once", 5);
  late.request->deadline = clock.now();
  EXPECT_EQ(registry->submit("tiny", late.request)->reason, RefusalReason::kDeadline);
  const Call gone = greedy_call("Once", 5);
  gone.request->cancel();
  EXPECT_EQ(registry->submit("tiny", gone.request)->reason, RefusalReason::kCancelled);
}

TEST(Registry, DrainFinishesWhatWasAcceptedAndRefusesTheRest) {
  const SteadyClock clock;
  const auto registry = make_registry(shipped(2), clock);
  std::vector<Call> calls;
  for (int i = 0; i < 6; ++i) {
    calls.push_back(greedy_call("Once upon a time", 40));
    ASSERT_FALSE(registry->submit("tiny", calls.back().request));
  }
  registry->begin_drain();
  const Call late = greedy_call("Once upon a time", 40);
  const auto refusal = registry->submit("tiny", late.request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kDraining);
  EXPECT_EQ(registry->models().at(0).state, ModelInfo::State::kDraining);
  ASSERT_TRUE(registry->wait_idle(seconds(60)));
  for (const Call& call : calls) {
    EXPECT_TRUE(call.heard->completion());
  }
}

TEST(Registry, WaitIdleTellsWhenTimePassedFirst) {
  const SteadyClock clock;
  Gate gate;
  const auto registry = make_registry(shipped(1), clock);
  const Call call = greedy_call("Once upon a time", 2, [&] { gate.pass(); });
  ASSERT_FALSE(registry->submit("tiny", call.request));
  EXPECT_FALSE(registry->wait_idle(Duration::zero()));
  gate.open();  // the registry, which goes first, waits for its engine
}

TEST(Registry, DestructorTellsEachListenerOnce) {
  const SteadyClock clock;
  std::vector<Call> calls;
  {
    const auto registry = make_registry(shipped(2), clock);
    for (int i = 0; i < 20; ++i) {
      calls.push_back(greedy_call("Once upon a time", 400));
      ASSERT_FALSE(registry->submit("tiny", calls.back().request));
    }
    ASSERT_TRUE(calls[0].heard->wait_pieces(1));
  }
  int stopped = 0;
  for (const Call& call : calls) {
    EXPECT_EQ(call.heard->ends(), 1);
    EXPECT_EQ(call.heard->late_events(), 0);
    if (call.heard->error()) {
      EXPECT_EQ(call.heard->error()->code, Code::kUnavailable);
      ++stopped;
    }
  }
  EXPECT_GE(stopped, 10);
}

}  // namespace
}  // namespace weir::model
