// SPDX-License-Identifier: Apache-2.0
//
// The policies under real threads and real time: backends with threads of their own, clients that
// leave while everything else happens. What is exact is tested on a simulated clock; here it is
// that nobody is forgotten or told twice, and that ThreadSanitizer finds nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "agent/schedule/timer.h"
#include "agent/upstream/policy_executor.h"

namespace weir::upstream {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

/// Models with threads: each takes a request, works a while, answers or fails. What was cancelled
/// fails as such. The destructor fails what is left, as the registry does.
class ThreadedModels final : public model::Executor {
 public:
  struct Faults {
    unsigned failing_percent = 0;
    unsigned refusing_percent = 0;
    unsigned longest_us = 0;
  };

  ThreadedModels(Faults faults, unsigned threads) : faults_(faults) {
    for (unsigned i = 0; i < threads; ++i) {
      workers_.emplace_back([this, i](const std::stop_token& stop) { work(i, stop); });
    }
  }
  ~ThreadedModels() override {
    for (auto& worker : workers_) worker.request_stop();
    workers_.clear();
    for (const auto& request : waiting_) {
      request->listener->on_error(make_error(Code::kUnavailable, "stopping"));
    }
  }

  std::optional<model::Refusal> submit(std::string_view,
                                       std::shared_ptr<model::GenerationRequest> request) override {
    const std::lock_guard lock(mutex_);
    if (request->cancelled.load()) return model::Refusal{model::RefusalReason::kCancelled, "", {}};
    if (random_() % 100 < faults_.refusing_percent) {
      return model::Refusal{model::RefusalReason::kQueueFull, "", std::chrono::seconds(1)};
    }
    waiting_.push_back(std::move(request));
    arrived_.notify_one();
    return std::nullopt;
  }
  bool has_model(std::string_view) const override { return true; }
  std::vector<model::ModelInfo> models() const override { return {}; }

 private:
  void work(unsigned seed, const std::stop_token& stop) {
    std::mt19937 random(seed + 1);
    for (;;) {
      std::shared_ptr<model::GenerationRequest> request;
      {
        std::unique_lock lock(mutex_);
        if (!arrived_.wait(lock, stop, [this] { return !waiting_.empty(); })) return;
        request = std::move(waiting_.front());
        waiting_.pop_front();
      }
      if (faults_.longest_us > 0) {  // work
        std::this_thread::sleep_for(microseconds(random() % faults_.longest_us));
      }
      model::Listener& listener = *request->listener;
      if (request->cancelled.load()) {
        listener.on_error(make_error(Code::kCancelled, ""));
      } else if (random() % 100 < faults_.failing_percent) {
        listener.on_error(make_error(Code::kUnavailable, ""));
      } else {
        listener.on_text("a");
        static_cast<void>(listener.wants_more());
        listener.on_text("b");
        listener.on_complete({});
      }
    }
  }

  const Faults faults_;
  std::mutex mutex_;
  std::condition_variable_any arrived_;
  std::deque<std::shared_ptr<model::GenerationRequest>> waiting_;
  std::mt19937 random_{99};  // guarded by mutex_
  std::vector<std::jthread> workers_;
};

/// Of all clients together.
struct Counts {
  std::atomic<int> ends{0};
  std::atomic<int> completed{0};
  std::atomic<int> mistakes{0};  ///< a second end, text after the end, a broken answer
};

class CountingListener final : public model::Listener {
 public:
  explicit CountingListener(Counts& counts) : counts_(counts) {}
  void on_degraded(model::Degraded) override { degraded_ = true; }
  void on_text(std::string_view text) override {
    if (ended_.load()) ++counts_.mistakes;
    text_ += text;
  }
  void on_complete(const model::Completion&) override {
    if (text_ != "ab" && !(degraded_ && text_ == "default")) ++counts_.mistakes;
    ++counts_.completed;
    end();
  }
  void on_error(const Error&) override { end(); }

 private:
  void end() {
    if (ended_.exchange(true)) ++counts_.mistakes;
    ++counts_.ends;
  }
  Counts& counts_;
  bool degraded_ = false;
  std::string text_;
  std::atomic<bool> ended_{false};
};

class PolicyThreads : public testing::Test {
 protected:
  static constexpr int kClients = 4;

  /// Each client submits `each` requests, some milliseconds' work at a time, and takes every
  /// `cancel_every`th back.
  void run(int each, int cancel_every) {
    std::vector<std::jthread> clients;
    for (int c = 0; c < kClients; ++c) {
      clients.emplace_back([this, each, cancel_every] {
        std::vector<std::shared_ptr<model::GenerationRequest>> recent;
        for (int i = 0; i < each; ++i) {
          auto request = std::make_shared<model::GenerationRequest>();
          request->prompt = "p" + std::to_string(i % 7);
          request->sampling.temperature = 0;
          request->listener = std::make_shared<CountingListener>(counts);
          if (executor->submit("main", request)) ++refused;
          recent.push_back(std::move(request));
          if (recent.size() < 8) continue;
          if (cancel_every > 0 && i % cancel_every == 0) recent[3]->cancel();
          recent.clear();
          std::this_thread::sleep_for(milliseconds(1));  // paced, so that queues stay short
        }
      });
    }
  }

  /// False after 30 s.
  bool await_ends(int all) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (counts.ends + refused < all) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }

  void start(const SlaOptions& options, ThreadedModels::Faults faults) {
    models.emplace(faults, 4);
    executor.emplace(std::vector{options}, *models, timers, clock, 7);
  }

  SteadyClock clock;
  schedule::TimerThread thread{clock};
  ThreadTimers timers{thread};
  Counts counts;
  std::atomic<int> refused{0};
  std::optional<ThreadedModels> models;
  std::optional<PolicyExecutor> executor;
};

TEST_F(PolicyThreads, RetriesKeepThePromise) {
  SlaOptions options;
  options.retry = {3, milliseconds(2)};
  // Three failures in a row are one in 30,000: two in these requests would be 99.95 %.
  start(options, {.failing_percent = 2, .refusing_percent = 1, .longest_us = 100});
  constexpr int kEach = 1000;
  run(kEach, 0);
  ASSERT_TRUE(await_ends(kClients * kEach));
  EXPECT_EQ(counts.mistakes, 0);
  EXPECT_GE(counts.completed, kClients * kEach * 9995 / 10000);
  EXPECT_GT(executor->reading().routes.at(0).retries, 0U);
}

TEST_F(PolicyThreads, EverybodyHearsOneEndWhateverHappensAtOnce) {
  SlaOptions options;
  options.retry = {3, milliseconds(1)};
  options.adaptive_retry = {2, milliseconds(1)};
  options.fast_fail = {0.5, "backup"};
  options.degrade = {16, 1 << 16, "default"};
  options.budget_percent = 100;
  start(options, {.failing_percent = 40, .refusing_percent = 20, .longest_us = 2000});
  constexpr int kEach = 600;
  run(kEach, 2);
  ASSERT_TRUE(await_ends(kClients * kEach));
  EXPECT_EQ(counts.mistakes, 0);
  const SlaRouteReading reading = executor->reading().routes.at(0);
  EXPECT_EQ(reading.requests, std::uint64_t{kClients * kEach});
  EXPECT_GT(reading.retries, 0U);
  EXPECT_GT(reading.adaptive_attempts, 0U);
  EXPECT_GT(reading.degraded_default + reading.degraded_cached, 0U);
}

TEST_F(PolicyThreads, StoppingInTheMiddleLosesNobody) {
  SlaOptions options;
  options.retry = {3, milliseconds(50)};
  options.adaptive_retry = {2, milliseconds(1)};
  for (int round = 0; round < 5; ++round) {
    counts.ends = 0;
    refused = 0;
    start(options, {.failing_percent = 50, .refusing_percent = 20, .longest_us = 3000});
    run(100, 3);  // returns with most of them under way
    executor.reset();
    models.reset();
    EXPECT_EQ(counts.ends + refused, kClients * 100);
    EXPECT_EQ(counts.mistakes, 0);
  }
}

}  // namespace
}  // namespace weir::upstream
