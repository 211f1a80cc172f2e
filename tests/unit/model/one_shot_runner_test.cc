// SPDX-License-Identifier: Apache-2.0
#include "agent/model/one_shot_runner.h"

#include <gtest/gtest.h>

#include <random>
#include <system_error>
#include <thread>

#include "agent/model/identity.h"
#include "tests/fixtures/address_space_limit.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// Writes down the batches it gets and, once held, keeps them until it is opened.
class GatedExecutor final : public schedule::BatchExecutor {
 public:
  void execute(std::size_t /*instance*/, std::span<schedule::BatchJob> jobs) override {
    std::unique_lock lock(mutex_);
    auto& inputs = batches_.emplace_back();
    for (const auto& job : jobs) inputs.emplace_back(job.input);
    ++inside_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !held_ || interrupted_; });
    --inside_;
    for (auto& job : jobs) {
      if (job.input == "bad") {
        job.error = make_error(Code::kInvalidArgument, "bad input");
      } else {
        job.output = job.input;
      }
    }
  }
  void interrupt() override {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    changed_.notify_all();
  }
  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  bool wait_inside(int instances) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, seconds(60), [&] { return inside_ >= instances; });
  }
  std::vector<std::vector<std::string>> batches() {
    const std::lock_guard lock(mutex_);
    return batches_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  bool interrupted_ = false;
  int inside_ = 0;
  std::vector<std::vector<std::string>> batches_;
};

class OneShot : public testing::Test {
 protected:
  /// Without a window: what waits goes when an instance is idle.
  static OneShotOptions eager(std::size_t instances = 1) {
    OneShotOptions options;
    options.name = "echo";
    options.kind = "identity";
    options.batch.timeout = Duration(0);
    options.batch.instances = instances;
    options.queue.all.max_requests = 100000;
    return options;
  }
  OneShotRunner& start(OneShotOptions options) {
    auto executor = std::make_unique<GatedExecutor>();
    executor_ = executor.get();
    runner_.emplace(std::move(options), std::move(executor), clock_, timers_);
    return *runner_;
  }
  OneShotRunner& start_identity(OneShotOptions options, IdentityOptions identity) {
    runner_.emplace(std::move(options), std::make_unique<Identity>(identity), clock_, timers_);
    return *runner_;
  }
  Call submit(const std::string& prompt, std::int32_t level = 4,
              std::optional<Duration> timeout = std::nullopt) {
    Call call = greedy_call(prompt, 1);
    call.request->priority = level;
    if (timeout) call.request->deadline = clock_.now() + *timeout;
    const auto refusal = runner_->submit(call.request);
    EXPECT_EQ(refusal, std::nullopt) << refusal->message;
    return call;
  }
  /// One batch is executed, and stays there until executor_->open().
  Call occupy() {
    executor_->hold();
    Call call = submit("first");
    EXPECT_TRUE(executor_->wait_inside(1));
    return call;
  }

  /// A batch is counted after its members have heard: this waits for the count.
  ModelInfo info_when_idle() {
    EXPECT_TRUE(runner_->wait_idle(clock_.now() + seconds(60)));
    return runner_->info();
  }

  const SteadyClock clock_;
  schedule::TimerThread timers_{clock_};
  GatedExecutor* executor_ = nullptr;
  std::optional<OneShotRunner> runner_;
};

TEST_F(OneShot, IdentityReturnsItsInput) {
  start_identity(eager(), {});
  const Call call = submit("twelve bytes");
  ASSERT_TRUE(call.heard->wait_end());
  EXPECT_EQ(call.heard->text(), "twelve bytes");
  ASSERT_TRUE(call.heard->completion());
  EXPECT_EQ(call.heard->completion()->usage.prompt_tokens, 3U);
  EXPECT_EQ(call.heard->completion()->usage.completion_tokens, 3U);
  EXPECT_EQ(call.heard->completion()->reason, FinishReason::kStop);
}

TEST_F(OneShot, IdentityTakesWhatItCosts) {
  for (const bool busy : {false, true}) {
    start_identity(eager(), {milliseconds(3), milliseconds(2), busy});
    const Call call = submit("x");
    ASSERT_TRUE(call.heard->wait_end());
    ASSERT_TRUE(call.heard->completion());
    EXPECT_GE(call.heard->completion()->total, milliseconds(5));
  }
}

TEST_F(OneShot, TakesTogetherWhatCameMeanwhile) {
  start(eager());
  occupy();
  std::vector<Call> calls;
  for (int i = 0; i < 10; ++i) calls.push_back(submit(std::to_string(i)));
  executor_->open();
  for (const Call& call : calls) ASSERT_TRUE(call.heard->wait_end());
  const auto batches = executor_->batches();
  ASSERT_EQ(batches.size(), 2U);
  EXPECT_EQ(batches[1].size(), 10U);
  const ModelInfo info = info_when_idle();
  ASSERT_TRUE(info.batches);
  EXPECT_EQ(info.batches->members, 11U);
  EXPECT_EQ(info.batches->by_size[0], 1U);
  EXPECT_EQ(info.batches->by_size[4], 1U);  // up to 16
}

TEST_F(OneShot, TakesTheMostUrgentFirst) {
  OneShotOptions options = eager();
  options.batch.max_batch_size = options.batch.preferred_batch_size = 2;
  start(options);
  occupy();
  std::vector<Call> calls;
  calls.push_back(submit("low", 7));
  calls.push_back(submit("middle", 4));
  calls.push_back(submit("high", 0));
  executor_->open();
  for (const Call& call : calls) ASSERT_TRUE(call.heard->wait_end());
  const auto batches = executor_->batches();
  ASSERT_EQ(batches.size(), 3U);
  EXPECT_EQ(batches[1], (std::vector<std::string>{"high", "middle"}));
  EXPECT_EQ(batches[2], (std::vector<std::string>{"low"}));
}

TEST_F(OneShot, StartsAtThePreferredSizeWithoutWaitingForTheWindow) {
  OneShotOptions options = eager();
  options.batch.timeout = seconds(10);
  options.batch.preferred_batch_size = 4;
  start(options);
  std::vector<Call> calls;
  for (int i = 0; i < 4; ++i) calls.push_back(submit("x"));
  const TimePoint begin = clock_.now();
  for (const Call& call : calls) ASSERT_TRUE(call.heard->wait_end());
  EXPECT_LT(clock_.now() - begin, seconds(9));
  EXPECT_EQ(executor_->batches().at(0).size(), 4U);
  EXPECT_EQ(info_when_idle()
                .batches->by_cause[static_cast<std::size_t>(schedule::BatchCause::kPreferred)],
            1U);
}

TEST_F(OneShot, WaitsTheWindowForCompany) {
  OneShotOptions options = eager();
  options.batch.timeout = milliseconds(30);
  start(options);
  for (int round = 0; round < 3; ++round) {  // also right after a batch, while the thread lingers
    const Call call = submit("x");
    ASSERT_TRUE(call.heard->wait_end());
    ASSERT_TRUE(call.heard->completion());
    EXPECT_GE(call.heard->completion()->total, milliseconds(30));
    EXPECT_LT(call.heard->completion()->total, seconds(5));
  }
  EXPECT_EQ(
      info_when_idle().batches->by_cause[static_cast<std::size_t>(schedule::BatchCause::kTimeout)],
      3U);
}

TEST_F(OneShot, DoesNotWaitForCompanyPastADeadline) {
  OneShotOptions options = eager();
  options.batch.timeout = seconds(10);
  start(options);
  const Call call = submit("x", 4, seconds(5));
  ASSERT_TRUE(call.heard->wait_end());
  EXPECT_TRUE(call.heard->completion());
}

TEST_F(OneShot, UsesAllInstancesAtOnce) {
  OneShotOptions options = eager(3);
  options.batch.max_batch_size = options.batch.preferred_batch_size = 1;
  start(options);
  executor_->hold();
  std::vector<Call> calls;
  for (int i = 0; i < 3; ++i) calls.push_back(submit("x"));
  EXPECT_TRUE(executor_->wait_inside(3));
  EXPECT_EQ(runner_->info().running, 3U);
  executor_->open();
  for (const Call& call : calls) ASSERT_TRUE(call.heard->wait_end());
}

TEST_F(OneShot, LeavesTheRestOfAFullBatchToAnotherInstance) {
  OneShotOptions options = eager(2);
  options.batch.timeout = seconds(10);
  options.batch.max_batch_size = options.batch.preferred_batch_size = 4;
  start(options);
  executor_->hold();
  std::vector<Call> calls;
  for (int i = 0; i < 8; ++i) calls.push_back(submit("x"));
  EXPECT_TRUE(executor_->wait_inside(2));
  executor_->open();
  for (const Call& call : calls) ASSERT_TRUE(call.heard->wait_end());
}

TEST_F(OneShot, RefusesWhatTheQueueCannotHold) {
  OneShotOptions options = eager();
  options.queue.all.max_requests = 2;
  start(options);
  const Call first = occupy();
  const Call second = submit("x");
  const Call third = submit("x");
  const Call fourth = greedy_call("x", 1);
  const auto refusal = runner_->submit(fourth.request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kQueueFull);
  EXPECT_TRUE(refusal->retry_after);
  EXPECT_EQ(runner_->info().refused[static_cast<std::size_t>(RefusalReason::kQueueFull)], 1U);
  executor_->open();
  ASSERT_TRUE(third.heard->wait_end());
  EXPECT_EQ(fourth.heard->ends(), 0);
}

TEST_F(OneShot, CancelFreesTheQueueAtOnce) {
  start(eager());
  const Call first = occupy();
  const Call waiting = submit("x");
  EXPECT_EQ(runner_->info().queued, 1U);
  waiting.request->cancel();
  EXPECT_EQ(waiting.heard->ends(), 1);  // heard before cancel() returned
  EXPECT_EQ(waiting.heard->error()->code, Code::kCancelled);
  EXPECT_EQ(runner_->info().queued, 0U);
  waiting.request->cancel();
  executor_->open();
  ASSERT_TRUE(first.heard->wait_end());
  EXPECT_EQ(waiting.heard->ends(), 1);
  EXPECT_EQ(executor_->batches().size(), 1U);
}

TEST_F(OneShot, WhoIsCancelledInABatchHearsSoAtItsEnd) {
  start(eager());
  const Call call = occupy();
  call.request->cancel();
  EXPECT_EQ(call.heard->ends(), 0);
  executor_->open();
  ASSERT_TRUE(call.heard->wait_end());
  EXPECT_EQ(call.heard->error()->code, Code::kCancelled);
  EXPECT_EQ(call.heard->text(), "");
  ASSERT_TRUE(runner_->wait_idle(clock_.now() + seconds(60)));
  EXPECT_EQ(runner_->info().cancelled, 1U);
}

TEST_F(OneShot, RefusesWhatWasCancelledBefore) {
  start(eager());
  const Call call = greedy_call("x", 1);
  call.request->cancel();
  const auto refusal = runner_->submit(call.request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kCancelled);
}

TEST_F(OneShot, CancelAfterTheRunnerIsGoneDoesNothing) {
  start(eager());
  const Call call = submit("x");
  ASSERT_TRUE(call.heard->wait_end());
  runner_.reset();
  call.request->cancel();
  EXPECT_EQ(call.heard->ends(), 1);
}

TEST_F(OneShot, ExpiresWhileEveryInstanceIsBusy) {
  start(eager());
  const Call first = occupy();
  const Call late = submit("x", 4, milliseconds(20));
  const Call later = submit("x", 4, milliseconds(30));
  const Call sooner = submit("x", 4, milliseconds(10));
  for (const Call* call : {&sooner, &late, &later}) {
    ASSERT_TRUE(call->heard->wait_end());
    EXPECT_EQ(call->heard->error()->code, Code::kResourceExhausted);
    EXPECT_GE(clock_.now(), *call->request->deadline);
  }
  EXPECT_EQ(first.heard->ends(), 0);
  while (runner_->info().expired < 3) std::this_thread::yield();  // counted after they heard
  executor_->open();
}

TEST_F(OneShot, EachDeadlineBeforeTheLastLeavesNoTimerBehind) {
  start(eager());
  const TimePoint latest = clock_.now() + std::chrono::hours(1);
  for (int i = 0; i < 100; ++i) {
    const Call call = greedy_call("x", 1);
    call.request->deadline = latest - milliseconds(i);
    ASSERT_FALSE(runner_->submit(call.request));
    ASSERT_TRUE(call.heard->wait_end());
  }
  EXPECT_EQ(timers_.armed(), 1U);
  runner_.reset();
  EXPECT_EQ(timers_.armed(), 0U);
}

TEST_F(OneShot, RefusesADeadlineThatCannotBeMet) {
  OneShotOptions options = eager();
  options.batch.max_batch_size = options.batch.preferred_batch_size = 1;
  start_identity(options, {milliseconds(100), {}, false});
  ASSERT_TRUE(submit("x").heard->wait_end());
  ASSERT_TRUE(runner_->wait_idle(clock_.now() + seconds(60)));
  EXPECT_EQ(runner_->predicted_wait(4), Duration(0));
  // Idle: tried, whatever the estimate says.
  ASSERT_TRUE(submit("x", 4, milliseconds(20)).heard->wait_end());
  const Call running = submit("x");
  while (runner_->info().running == 0) std::this_thread::yield();
  const Call hopeless = greedy_call("x", 1);
  hopeless.request->deadline = clock_.now() + milliseconds(110);
  const auto refusal = runner_->submit(hopeless.request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kDeadline);
  EXPECT_EQ(refusal->retry_after, std::nullopt);
  EXPECT_NE(refusal->message.find("cannot be met"), std::string::npos) << refusal->message;
  const Call urgent = submit("x", 4, seconds(5));
  ASSERT_TRUE(urgent.heard->wait_end());
  EXPECT_TRUE(urgent.heard->completion());
}

TEST_F(OneShot, TellsTheWaitOfEachLevel) {
  OneShotOptions options = eager();
  options.batch.max_batch_size = options.batch.preferred_batch_size = 1;
  start_identity(options, {milliseconds(50), {}, false});
  EXPECT_EQ(runner_->predicted_wait(4), std::nullopt);
  ASSERT_TRUE(submit("x").heard->wait_end());
  std::vector<Call> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(submit("x", 6));
  EXPECT_LE(runner_->predicted_wait(0), milliseconds(80));
  EXPECT_LE(runner_->predicted_wait(6), milliseconds(80));
  EXPECT_GE(runner_->predicted_wait(7), milliseconds(150));
}

TEST_F(OneShot, TellsEachJobItsOwnFailure) {
  start(eager());
  const Call first = occupy();
  const Call bad = submit("bad");
  const Call good = submit("good");
  executor_->open();
  ASSERT_TRUE(bad.heard->wait_end());
  ASSERT_TRUE(good.heard->wait_end());
  EXPECT_EQ(bad.heard->error()->code, Code::kInvalidArgument);
  EXPECT_EQ(good.heard->text(), "good");
}

TEST_F(OneShot, FinishesWhatItAcceptedWhenItDrains) {
  OneShotOptions options = eager();
  options.batch.timeout = milliseconds(20);
  start(options);
  const Call call = submit("x");
  runner_->begin_drain();
  const Call more = greedy_call("x", 1);
  const auto refusal = runner_->submit(more.request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason, RefusalReason::kDraining);
  EXPECT_TRUE(runner_->wait_idle(clock_.now() + seconds(60)));
  EXPECT_TRUE(call.heard->completion());
  EXPECT_EQ(runner_->info().state, ModelInfo::State::kDraining);
}

TEST_F(OneShot, EndsWhatIsLeftWhenItStops) {
  start_identity(eager(), {seconds(10), {}, false});
  const Call running = submit("x");
  while (runner_->info().running == 0) std::this_thread::yield();
  const Call waiting = submit("x");
  const TimePoint begin = clock_.now();
  runner_.reset();
  EXPECT_LT(clock_.now() - begin, seconds(9));
  EXPECT_EQ(running.heard->error()->code, Code::kUnavailable);
  EXPECT_EQ(waiting.heard->error()->code, Code::kUnavailable);
}

TEST_F(OneShot, EndsItsThreadsWhenTheSystemHasNoMore) {
  if (!kLimitsAddressSpace) GTEST_SKIP() << "the sanitizer needs the address space";
  const AddressSpaceLimit limit(std::size_t{100} << 20);
  EXPECT_THROW(start(eager(64)), std::system_error);
}

class CountingListener final : public Listener {
 public:
  explicit CountingListener(std::atomic<int>& ends) : ends_(ends) {}
  void on_text(std::string_view /*text*/) override {}
  void on_complete(const Completion& /*completion*/) override { end(); }
  void on_error(const Error& /*error*/) override { end(); }
  [[nodiscard]] int ends() const { return own_; }

 private:
  void end() {
    ++own_;
    ++ends_;
  }
  std::atomic<int> own_{0};
  std::atomic<int>& ends_;
};

TEST_F(OneShot, EverybodyHearsOneEndUnderStress) {
  for (const schedule::BatchMode mode :
       {schedule::BatchMode::kFixed, schedule::BatchMode::kLearned}) {
    OneShotOptions options = eager(2);
    options.batch.mode = mode;
    options.batch.timeout = microseconds(500);
    start_identity(options, {microseconds(50), microseconds(2), false});
    constexpr int kThreads = 4;
    constexpr int kEach = 3000;
    std::atomic<int> ends{0};
    std::atomic<int> accepted{0};
    std::vector<std::vector<std::shared_ptr<CountingListener>>> heard(kThreads);
    {
      std::vector<std::jthread> threads;
      for (int t = 0; t < kThreads; ++t) {
        threads.emplace_back([&, t] {
          std::mt19937 random(static_cast<unsigned>(t));
          for (int i = 0; i < kEach; ++i) {
            auto request = std::make_shared<GenerationRequest>();
            auto listener = std::make_shared<CountingListener>(ends);
            request->prompt = "x";
            request->priority = static_cast<std::int32_t>(random() % 8);
            request->listener = listener;
            if (random() % 3 == 0) request->deadline = clock_.now() + microseconds(random() % 3000);
            if (runner_->submit(request)) continue;
            ++accepted;
            heard[static_cast<std::size_t>(t)].push_back(std::move(listener));
            if (random() % 4 == 0) request->cancel();
          }
        });
      }
    }
    ASSERT_TRUE(runner_->wait_idle(clock_.now() + seconds(60)));
    EXPECT_EQ(ends.load(), accepted.load());
    for (const auto& listeners : heard) {
      for (const auto& listener : listeners) EXPECT_EQ(listener->ends(), 1);
    }
    const ModelInfo info = runner_->info();
    EXPECT_EQ(info.accepted, static_cast<std::uint64_t>(accepted.load()));
    EXPECT_EQ(info.completed + info.failed + info.cancelled + info.expired, info.accepted);
    EXPECT_EQ(info.queued, 0U);
    EXPECT_EQ(info.failed, 0U);
    EXPECT_GT(info.completed, 0U);
  }
}

}  // namespace
}  // namespace weir::model
