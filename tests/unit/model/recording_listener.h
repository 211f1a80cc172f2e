// SPDX-License-Identifier: Apache-2.0
//
// A Listener that writes down what it hears, and the requests and registries of the engine tests.
//
// Thread-safe: the engine thread writes, the test waits and reads.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/model/generation.h"
#include "agent/model/registry.h"
#include "agent/schedule/worker_pool.h"

namespace weir::model {

inline const std::string kShippedModel = "deploy/models/tiny-stories-1m-q8_0.gguf";

class RecordingListener final : public Listener {
 public:
  /// `on_piece` runs on the engine thread for each piece, before it is recorded: a test can hold
  /// the engine there.
  explicit RecordingListener(std::function<void()> on_piece = {})
      : on_piece_(std::move(on_piece)) {}

  void on_text(std::string_view text) override {
    if (on_piece_) {
      on_piece_();
    }
    const std::lock_guard lock(mutex_);
    late_events_ += ends_ > 0 ? 1 : 0;
    text_ += text;
    ++pieces_;
    changed_.notify_all();
  }
  void on_complete(const Completion& completion) override {
    const std::lock_guard lock(mutex_);
    ++ends_;
    completion_ = completion;
    ended_at_ = next_end()++;
    changed_.notify_all();
  }
  void on_error(const Error& error) override {
    const std::lock_guard lock(mutex_);
    ++ends_;
    error_ = error;
    ended_at_ = next_end()++;
    changed_.notify_all();
  }

  /// False after 60 s: the test has failed then anyway.
  bool wait_end() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [this] { return ends_ > 0; });
  }
  bool wait_pieces(int pieces) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return pieces_ >= pieces; });
  }

  std::string text() const { return copy(text_); }
  int ends() const { return copy(ends_); }
  int late_events() const { return copy(late_events_); }
  std::optional<Completion> completion() const { return copy(completion_); }
  std::optional<Error> error() const { return copy(error_); }
  /// Rises over all listeners of the process, in the order of the ends.
  int ended_at() const { return copy(ended_at_); }

 private:
  template <typename T>
  T copy(const T& guarded) const {
    const std::lock_guard lock(mutex_);
    return guarded;
  }
  static std::atomic<int>& next_end() {
    static std::atomic<int> counter{0};
    return counter;
  }
  const std::function<void()> on_piece_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  int pieces_ = 0;
  int ends_ = 0;
  int late_events_ = 0;
  int ended_at_ = -1;
  std::optional<Completion> completion_;
  std::optional<Error> error_;
};

/// A request and the listener in it.
struct Call {
  std::shared_ptr<GenerationRequest> request;
  std::shared_ptr<RecordingListener> heard;
};

inline Call greedy_call(std::string prompt, std::uint32_t max_tokens,
                        std::function<void()> on_piece = {}) {
  Call call{std::make_shared<GenerationRequest>(),
            std::make_shared<RecordingListener>(std::move(on_piece))};
  call.request->prompt = std::move(prompt);
  call.request->max_tokens = max_tokens;
  call.request->sampling.temperature = 0;
  call.request->listener = call.heard;
  return call;
}

inline ModelOptions shipped(std::uint32_t max_sequences = 8) {
  ModelOptions options;
  options.name = "tiny";
  options.path = kShippedModel;
  options.max_sequences = max_sequences;
  options.threads = 1;
  return options;
}

/// Tokenizes for every test.
inline schedule::WorkerPool& workers() {
  static const auto pool = *schedule::WorkerPool::create({.name = "test", .max_workers = 2});
  return *pool;
}

inline std::unique_ptr<Registry> make_registry(ModelOptions options, const Clock& clock) {
  std::vector<ModelOptions> models;
  models.push_back(std::move(options));
  auto registry = Registry::create(std::move(models), clock, workers());
  EXPECT_TRUE(registry.ok()) << (registry.ok() ? "" : registry.error().message);
  return registry.ok() ? std::move(*registry) : nullptr;
}

/// Holds an engine inside a listener until opened; opens itself when destroyed.
class Gate {
 public:
  ~Gate() { open(); }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    reached_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  bool wait_reached() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [this] { return reached_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  bool reached_ = false;
};

}  // namespace weir::model
