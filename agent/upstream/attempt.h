// SPDX-License-Identifier: Apache-2.0
//
// One attempt at a request: a GenerationRequest of its own, submitted to one model, and the
// Listener that hears what becomes of it and tells the request's PolicyCall.
//
// Thread-safety: that of a Listener: called by the executor, one event after the other. Keeps the
// PolicyCall alive until the executor lets go of it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "agent/model/generation.h"
#include "agent/upstream/failure.h"

namespace weir::upstream {

/// Who makes the attempts. Thread-safe: two attempts may report at the same time.
class AttemptOwner {
 public:
  virtual ~AttemptOwner() = default;
  /// The attempt has something for the client. True: it is the one that answers, from the first
  /// call on; false: another one was first, and this one is being cancelled.
  [[nodiscard]] virtual bool claim(std::size_t attempt) = 0;
  /// Of the one that answers: pieces of the answer, in order.
  virtual void logprobs(std::span<const model::TokenLogprob> tokens) = 0;
  virtual void text(std::string_view piece) = 0;
  virtual void vectors(std::span<const float> values) = 0;
  virtual void degraded(model::Degraded from) = 0;
  // The end, exactly one of these.
  virtual void completed(std::size_t attempt, const model::Completion& completion) = 0;
  virtual void failed(std::size_t attempt, Failure failure) = 0;
  [[nodiscard]] virtual bool client_wants_more() const = 0;
};

class Attempt final : public model::Listener {
 public:
  Attempt(std::shared_ptr<AttemptOwner> owner, std::size_t number)
      : owner_(std::move(owner)), number_(number) {}

  void on_degraded(model::Degraded from) override;
  void on_logprobs(std::span<const model::TokenLogprob> tokens) override;
  void on_text(std::string_view text) override;
  void on_vectors(std::span<const float> values) override;
  void on_complete(const model::Completion& completion) override;
  void on_error(const Error& error) override;
  void on_refused(const model::Refusal& refusal) override;
  [[nodiscard]] bool wants_more() const override { return owner_->client_wants_more(); }

 private:
  const std::shared_ptr<AttemptOwner> owner_;
  const std::size_t number_;
};

/// The same work as `outer`, for another listener. What admission reserved stays with `outer`,
/// which outlives its attempts.
[[nodiscard]] std::shared_ptr<model::GenerationRequest> attempt_request(
    const model::GenerationRequest& outer, std::shared_ptr<model::Listener> listener);

}  // namespace weir::upstream
