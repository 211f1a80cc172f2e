// SPDX-License-Identifier: Apache-2.0
//
// An Executor whose models are played by the test, and a Listener that writes down what a client
// would hear.
//
// Thread-compatible: belong to the test's thread.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/model/generation.h"

namespace weir::upstream {

class PuppetModels final : public model::Executor {
 public:
  struct Submitted {
    std::string model;
    std::shared_ptr<model::GenerationRequest> request;
    [[nodiscard]] model::Listener& listener() const { return *request->listener; }
    [[nodiscard]] bool cancelled() const { return request->cancelled.load(); }
    void fail(Code code) const { listener().on_error(make_error(code, "scripted")); }
    void complete(std::string_view text) const {
      listener().on_text(text);
      listener().on_complete({model::FinishReason::kStop, {3, 2}, {}, {}, {}});
    }
  };

  /// What a submit is answered; by default everything is accepted.
  std::function<std::optional<model::Refusal>(std::string_view model)> refuse =
      [](std::string_view) { return std::nullopt; };
  std::optional<Duration> wait;      ///< predicted_wait()
  std::vector<Submitted> submitted;  ///< accepted ones, in order
  std::vector<std::string> refused;  ///< models of those that were not

  std::optional<model::Refusal> submit(std::string_view model,
                                       std::shared_ptr<model::GenerationRequest> request) override {
    // As the engine does.
    auto refusal = request->cancelled.load()
                       ? std::optional(model::Refusal{model::RefusalReason::kCancelled, "", {}})
                       : refuse(model);
    if (refusal) {
      refused.emplace_back(model);
    } else {
      submitted.push_back({std::string(model), std::move(request)});
    }
    return refusal;
  }
  std::optional<Duration> predicted_wait(std::string_view, std::int32_t) const override {
    return wait;
  }
  bool has_model(std::string_view) const override { return true; }
  std::vector<model::ModelInfo> models() const override { return {}; }
};

class HeardListener final : public model::Listener {
 public:
  void on_degraded(model::Degraded from) override {
    EXPECT_TRUE(text.empty() && ends == 0);
    degraded = from;
  }
  void on_text(std::string_view piece) override {
    EXPECT_EQ(ends, 0) << "text after the end";
    text += piece;
  }
  void on_complete(const model::Completion& with) override {
    ++ends;
    completion = with;
  }
  void on_error(const Error& with) override {
    ++ends;
    error = with;
  }
  void on_refused(const model::Refusal& with) override {
    ++ends;
    refusal = with;
  }
  bool wants_more() const override { return wants; }

  std::string text;
  int ends = 0;
  bool wants = true;
  std::optional<model::Degraded> degraded;
  std::optional<model::Completion> completion;
  std::optional<Error> error;
  std::optional<model::Refusal> refusal;
};

/// A request and the listener in it.
struct Asked {
  std::shared_ptr<model::GenerationRequest> request;
  std::shared_ptr<HeardListener> heard;
  std::optional<model::Refusal> refused;  ///< by submit()
};

}  // namespace weir::upstream
