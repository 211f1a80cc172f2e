// SPDX-License-Identifier: Apache-2.0
//
// Several instances of one model behind one queue, with the shipped model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <fstream>
#include <future>
#include <map>
#include <numeric>
#include <random>
#include <thread>

#include "agent/model/engine.h"
#include "agent/model/engine_instance.h"
#include "agent/model/gguf_vetting.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::seconds;
using testing::Each;
using testing::Field;
using testing::Gt;
using testing::SizeIs;

constexpr std::array kPrompts = {"Once upon a time", "One windy day", "There was a", "The fox said",
                                 "In a small house"};

ModelOptions several(std::uint32_t instances, std::uint32_t max_sequences = 2) {
  ModelOptions options = shipped(max_sequences);
  options.instances = instances;
  return options;
}

/// Of the shipped model's file, in this process; other tests may hold some.
std::uint64_t mapped_bytes() {
  std::ifstream maps("/proc/self/maps");
  std::uint64_t bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    if (!line.ends_with("/" + kShippedModel)) continue;
    const auto dash = line.find('-');
    bytes += std::stoull(line.substr(dash + 1), nullptr, 16) - std::stoull(line, nullptr, 16);
  }
  return bytes;
}

/// A look at how much of the file is in memory may be under way on a worker, and keeps it mapped.
bool mapped_is(std::uint64_t bytes) {
  const SteadyClock clock;
  const TimePoint give_up = clock.now() + seconds(60);
  while (mapped_bytes() != bytes) {
    if (clock.now() > give_up) return false;
    std::this_thread::yield();
  }
  return true;
}

/// Counts what it is told.
class CountingHost final : public VersionHost {
 public:
  Status reserve(const ModelVersion&, const MemoryClaim& claim) override {
    reserved = claim.all();
    return {};
  }
  void load_progressed(const ModelVersion&, float) override {}
  void loaded(const ModelVersion&) override { ++loads; }
  void warmed(const ModelVersion&) override { ++warm; }
  void load_failed(const ModelVersion&, const Error&, bool) override { ++failures; }
  void idle(const ModelVersion&) override {}
  void released(const ModelVersion&) override {
    ++releases;
    gone.set_value();
  }
  bool wait_released() {
    return gone.get_future().wait_for(seconds(60)) == std::future_status::ready;
  }

  std::atomic<std::uint64_t> reserved{0};
  std::atomic<int> loads{0}, warm{0}, failures{0}, releases{0};
  std::promise<void> gone;
};

struct Instances : testing::TestWithParam<std::uint32_t> {
  void make(const ModelOptions& options, VersionHost* told = nullptr) {
    engine = std::make_unique<Engine>(options, clock, timers, workers(), told);
  }
  bool idle() { return engine->wait_idle(clock.now() + seconds(60)); }

  // Whoever is held must go before the gate does.
  void TearDown() override {
    open();
    engine.reset();
  }
  void open() {
    for (const auto& gate : gates) gate->open();
  }
  /// Each but one is inside a step then, with one request.
  void hold_all_but_one() {
    for (std::uint32_t i = 1; i < GetParam(); ++i) {
      gates.push_back(std::make_unique<Gate>());
      Gate& gate = *gates.back();
      held.push_back(greedy_call("Once upon a time", 5, [&gate] { gate.pass(); }));
      ASSERT_FALSE(engine->submit(held.back().request));
      ASSERT_TRUE(gate.wait_reached());
    }
  }

  const SteadyClock clock;
  schedule::TimerThread timers{clock};
  const std::uint64_t mapped_before = mapped_bytes();
  CountingHost host;
  std::vector<std::unique_ptr<Gate>> gates;
  std::vector<Call> held;
  std::unique_ptr<Engine> engine;
};

TEST_P(Instances, AnswerAsOneAloneWouldAndEachRequestOnce) {
  std::map<std::string, std::string> alone;
  make(shipped(1));
  for (const char* const prompt : kPrompts) {
    const Call call = greedy_call(prompt, 40);
    ASSERT_FALSE(engine->submit(call.request));
    ASSERT_TRUE(call.heard->wait_end());
    alone[prompt] = call.heard->text();
  }
  make(several(GetParam(), 4));
  std::vector<Call> calls;
  for (std::size_t i = 0; i < 60; ++i) {
    calls.push_back(greedy_call(kPrompts[i % kPrompts.size()], 40));
    ASSERT_FALSE(engine->submit(calls.back().request));
  }
  ASSERT_TRUE(idle());
  for (const Call& call : calls) {
    ASSERT_TRUE(call.heard->completion());
    EXPECT_EQ(call.heard->text(), alone[call.request->prompt]);
    EXPECT_EQ(call.heard->ends(), 1);
    EXPECT_EQ(call.heard->late_events(), 0);
  }
  const ModelInfo info = engine->info();
  EXPECT_EQ(info.completed, calls.size());
  EXPECT_EQ(info.running + info.queued, 0U);
  ASSERT_THAT(info.instances, SizeIs(GetParam()));
  const InstanceReading all = std::accumulate(info.instances.begin(), info.instances.end(),
                                              InstanceReading{}, [](auto sum, const auto& one) {
                                                sum.add(one);
                                                return sum;
                                              });
  EXPECT_EQ(all.completion_tokens, info.completion_tokens);
  EXPECT_EQ(all.decode_steps, info.decode_steps);
}

TEST_P(Instances, WhoeverIsFreeServesWhileTheOthersAreInsideAStep) {
  make(several(GetParam()));
  hold_all_but_one();
  for (int i = 0; i < 10; ++i) {
    const Call call = greedy_call("One windy day", 5);
    ASSERT_FALSE(engine->submit(call.request));
    ASSERT_TRUE(call.heard->wait_end());
    EXPECT_TRUE(call.heard->completion());
  }
  EXPECT_EQ(engine->info().running, GetParam() - 1);
  open();
  ASSERT_TRUE(idle());
  EXPECT_THAT(engine->info().instances, Each(Field(&InstanceReading::decode_steps, Gt(0U))));
  EXPECT_THAT(engine->info().instances, Each(Field(&InstanceReading::running, 0U)));
}

TEST_P(Instances, AFileIsLoadedAndMappedOnceHoweverManyComeFirst) {
  make(several(1));
  const Call alone = greedy_call("Once upon a time", 5);
  ASSERT_FALSE(engine->submit(alone.request));
  ASSERT_TRUE(idle());
  const std::uint64_t mapped_by_one = mapped_bytes();
  EXPECT_GT(mapped_by_one, mapped_before);
  engine.reset();
  ASSERT_TRUE(mapped_is(mapped_before));
  make(several(GetParam()), &host);
  std::vector<Call> calls;
  for (int i = 0; i < 16; ++i) calls.push_back(greedy_call("Once upon a time", 5));
  {
    std::vector<std::jthread> clients;
    clients.reserve(calls.size());
    for (const Call& call : calls) {
      clients.emplace_back([&] { EXPECT_FALSE(engine->submit(call.request)); });
    }
  }
  ASSERT_TRUE(idle());
  EXPECT_EQ(engine->info().completed, calls.size());
  EXPECT_EQ(host.loads, 1);
  EXPECT_EQ(host.warm, 1);
  EXPECT_TRUE(mapped_is(mapped_by_one));
  engine.reset();
  EXPECT_EQ(host.releases, 1);
  EXPECT_TRUE(mapped_is(mapped_before));
}

TEST_P(Instances, CancelsFreeEverySequenceOfEach) {
  make(several(GetParam(), 3));
  std::mt19937 random(3);
  std::vector<Call> calls;
  for (int i = 0; i < 120; ++i) {
    calls.push_back(greedy_call(kPrompts[random() % kPrompts.size()], 300));
    ASSERT_FALSE(engine->submit(calls.back().request));
    calls[random() % calls.size()].request->cancel();
  }
  for (const Call& call : calls) call.request->cancel();
  ASSERT_TRUE(idle());
  const ModelInfo info = engine->info();
  EXPECT_EQ(info.cancelled + info.completed, calls.size());
  EXPECT_EQ(info.running + info.queued, 0U);
  for (const Call& call : calls) EXPECT_EQ(call.heard->ends(), 1);
}

TEST_P(Instances, DrainFinishesWhatEachOfThemRuns) {
  make(several(GetParam()));
  hold_all_but_one();
  const Call waits = greedy_call("One windy day", 50);
  ASSERT_FALSE(engine->submit(waits.request));
  engine->begin_drain();
  const auto refusal = engine->submit(greedy_call("One windy day", 5).request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kDraining);
  ASSERT_TRUE(waits.heard->wait_end());
  EXPECT_FALSE(engine->wait_idle(clock.now()));
  open();
  ASSERT_TRUE(idle());
  for (const Call& call : held) EXPECT_TRUE(call.heard->completion());
}

TEST_P(Instances, RetiredOnesGoWithTheLastRequestOfAny) {
  make(several(GetParam()), &host);
  hold_all_but_one();
  ASSERT_TRUE(engine->queue()->retire(/*if_idle=*/false));
  EXPECT_EQ(host.releases, 0);
  EXPECT_GT(mapped_bytes(), mapped_before);
  open();
  ASSERT_TRUE(host.wait_released());
  EXPECT_TRUE(mapped_is(mapped_before));
  for (const Call& call : held) EXPECT_TRUE(call.heard->completion());
  EXPECT_EQ(engine->info().engine.kv_cells, 0U);
  EXPECT_GE(engine->info().completion_tokens, GetParam() - 1);
}

TEST_P(Instances, StopEndsWhatRunsAndWhatWaits) {
  make(several(GetParam(), 1));
  std::vector<Call> calls;
  for (int i = 0; i < 20; ++i) {
    calls.push_back(greedy_call("Once upon a time", 400));
    ASSERT_FALSE(engine->submit(calls.back().request));
  }
  ASSERT_TRUE(calls.front().heard->wait_pieces(1));
  engine.reset();
  for (const Call& call : calls) EXPECT_EQ(call.heard->ends(), 1);
  EXPECT_EQ(calls.back().heard->error()->code, Code::kUnavailable);
  EXPECT_TRUE(mapped_is(mapped_before));
}

TEST_P(Instances, EachHasItsOwnCells) {
  make(several(GetParam()));
  const Call call = greedy_call("Once upon a time", 5);
  ASSERT_FALSE(engine->submit(call.request));
  ASSERT_TRUE(idle());
  const ModelInfo info = engine->info();
  hold_all_but_one();  // so that each has told how many it has
  const Call last = greedy_call("Once upon a time", 5);
  ASSERT_FALSE(engine->submit(last.request));
  ASSERT_TRUE(last.heard->wait_end());
  EXPECT_EQ(engine->info().engine.kv_cells, std::uint64_t{info.context_tokens} * 2 * GetParam());
}

INSTANTIATE_TEST_SUITE_P(TwoAndThree, Instances, testing::Values(2U, 3U));

TEST(InstancesOfARegistry, UnloadWaitsForEachAndLeavesNothingMapped) {
  const std::uint64_t mapped_before = mapped_bytes();
  const SteadyClock clock;
  const auto registry = make_registry(several(2, 1), clock);
  ASSERT_TRUE(registry);
  Gate first;
  Gate second;
  const Call one = greedy_call("Once upon a time", 5, [&] { first.pass(); });
  const Call two = greedy_call("Once upon a time", 5, [&] { second.pass(); });
  for (const Call* const call : {&one, &two}) ASSERT_FALSE(registry->submit("tiny", call->request));
  ASSERT_TRUE(first.wait_reached());
  ASSERT_TRUE(second.wait_reached());
  EXPECT_EQ(registry->models().front().running, 2U);
  std::promise<Status> unloaded;
  registry->unload("tiny", [&](Status status) { unloaded.set_value(std::move(status)); });
  auto done = unloaded.get_future();
  first.open();
  ASSERT_TRUE(one.heard->wait_end());
  EXPECT_EQ(done.wait_for(seconds(0)), std::future_status::timeout);
  second.open();
  ASSERT_EQ(done.wait_for(seconds(60)), std::future_status::ready);
  EXPECT_TRUE(done.get().ok());
  EXPECT_TRUE(one.heard->completion());
  EXPECT_TRUE(two.heard->completion());
  EXPECT_TRUE(mapped_is(mapped_before));
  const ModelInfo info = registry->models().front();
  EXPECT_EQ(info.memory_bytes, 0U);
  EXPECT_THAT(info.instances, SizeIs(2));
}

TEST(InstancesOfARegistry, AreBounded) {
  const SteadyClock clock;
  for (const std::uint32_t wrong : {0U, 65U}) {
    std::vector<ModelOptions> models;
    models.push_back(several(wrong));
    const auto registry = Registry::create(std::move(models), clock, workers());
    ASSERT_FALSE(registry.ok());
    EXPECT_THAT(registry.error().message, testing::HasSubstr("instances must be 1..64"));
  }
}

// libllama refuses a batch with a token that the vocabulary does not have, and with it the step.
TEST(EngineInstance, AFailedStepEndsTheRequestsOfItsInstanceOnly) {
  const SteadyClock clock;
  schedule::TimerThread timers{clock};
  const auto queue = RequestQueue::create({}, 4, clock, timers, 2);
  const std::atomic<bool> stopping{false};
  const ModelOptions options = several(2);
  const auto weights = LoadedModel::load_weights(options, *gguf_vetting().check(options.path),
                                                 [](float) { return true; });
  ASSERT_TRUE(weights.ok());
  std::array<EngineInstance, 2> instances{EngineInstance{0, *queue, clock, stopping},
                                          EngineInstance{1, *queue, clock, stopping}};
  for (EngineInstance& instance : instances) {
    auto model = LoadedModel::make(*weights, options);
    ASSERT_TRUE(model.ok());
    EXPECT_EQ(model->weights(), weights->model);
    instance.begin(std::move(*model), {});
  }
  queue->prepare_with([&](RequestQueue::Ticket ticket, const GenerationRequest& request) {
    const std::int32_t token = request.prompt == "bad" ? 1 << 20 : 100;
    queue->prepared(ticket, std::vector<std::int32_t>(4, token));
  });
  Gate gate;
  const Call good = greedy_call("good", 20, [&] { gate.pass(); });
  ASSERT_FALSE(queue->submit(good.request));
  {
    std::vector<std::jthread> threads;
    for (EngineInstance& instance : instances) {
      threads.emplace_back([&instance] { instance.run({}); });
    }
    ASSERT_TRUE(gate.wait_reached());
    const Call bad = greedy_call("bad", 20);
    ASSERT_FALSE(queue->submit(bad.request));
    ASSERT_TRUE(bad.heard->wait_end());
    ASSERT_TRUE(bad.heard->error());
    EXPECT_EQ(bad.heard->error()->code, Code::kInternal);
    EXPECT_EQ(good.heard->ends(), 0);
    const Call after = greedy_call("good", 20);  // the same instance, the other is held
    ASSERT_FALSE(queue->submit(after.request));
    ASSERT_TRUE(after.heard->wait_end());
    EXPECT_TRUE(after.heard->completion());
    gate.open();
    ASSERT_TRUE(good.heard->wait_end());
    EXPECT_TRUE(good.heard->completion());
    EXPECT_EQ(good.heard->text(), after.heard->text());
    queue->retire(/*if_idle=*/false);
  }
  for (EngineInstance& instance : instances) instance.end(make_error(Code::kUnavailable, "over"));
  queue->close();
}

}  // namespace
}  // namespace weir::model
