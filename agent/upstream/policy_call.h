// SPDX-License-Identifier: Apache-2.0
//
// One request under a policy: its attempts, one after the other or side by side, until one answers
// or nothing more can be done.
//
//              failed, worth it, in budget
//            ┌──────────── waiting ◄───────────┐
//   start    ▼                                 │        last one failed
//   ───► attempts under way ───────────────────┴──────────────────────────► degraded answer, or
//            │ ▲    └── no first byte for `after`: one more beside             the failure
//            │ └────────┘
//            ▼ first byte: that attempt answers, the others are cancelled
//          answering ──────► its end, whatever it is, is the end of the request
//
// Rules:
//  - Nothing is tried again once a byte of an answer has gone to the client.
//  - Attempts of both kinds count together against the maximum of either, and every one beyond the
//    first is taken from the route's budget.
//  - While another attempt is under way, a failed one is not replaced.
//  - No attempt starts that would, by the predicted wait, not come to its turn before the deadline.
//  - Each attempt goes where the health of the models says at that moment. With a backup that is
//    well, a retry goes there without waiting when the model asked for has failed three times in a
//    row, whoever asked, and the last attempt when the one before it failed there: a model that
//    died a moment ago does not take a request down with it.
//  - A model that names a time before which it cannot be asked (loading, breaker_open with a
//    Retry-After) is not asked again by this request; the backup is, at once.
//  - The outer request's listener hears exactly one end, its cancel() reaches every attempt.
//
// Thread-safe. Shared by the attempts that are under way, the timer it waits for, and nobody else.
// Listeners and executors are called outside its lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/clock.h"
#include "agent/model/generation.h"
#include "agent/upstream/attempt.h"
#include "agent/upstream/failure.h"
#include "agent/upstream/route_policy.h"

namespace weir::upstream {

class PolicyCall final : public AttemptOwner,
                         public Waiter,
                         public std::enable_shared_from_this<PolicyCall> {
 public:
  PolicyCall(std::shared_ptr<SlaContext> context, std::shared_ptr<RoutePolicy> policy,
             std::string model, std::shared_ptr<model::GenerationRequest> outer);

  /// Makes the first attempt. As Executor::submit(): set: refused, and the listener hears nothing.
  /// The listener may hear a degraded answer before this returns. To be called once.
  [[nodiscard]] std::optional<model::Refusal> start();

  /// Of the outer request.
  void cancel();

  // AttemptOwner.
  [[nodiscard]] bool claim(std::size_t attempt) override;
  void logprobs(std::span<const model::TokenLogprob> tokens) override;
  void text(std::string_view piece) override;
  void vectors(std::span<const float> values) override;
  void degraded(model::Degraded from) override;
  void completed(std::size_t attempt, const model::Completion& completion) override;
  void failed(std::size_t attempt, Failure failure) override;
  [[nodiscard]] bool client_wants_more() const override;

  // Waiter.
  void resume() override;
  void abandon() override;

 private:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

  struct Made {
    std::shared_ptr<model::GenerationRequest> request;  ///< null: has ended
    Target target;
    TimePoint started;
    bool is_adaptive = false;
  };
  /// Zero where nothing is known.
  struct Waits {
    Duration model{};
    Duration backup{};
  };
  using Requests = std::vector<std::shared_ptr<model::GenerationRequest>>;

  // Where these return a failure, the request has ended and the client is to hear it.
  [[nodiscard]] std::optional<Failure> launch(const Target& target, bool is_adaptive);
  [[nodiscard]] std::optional<Failure> attempt_failed(std::size_t attempt, Failure failure);
  [[nodiscard]] std::optional<Failure> wait_until(TimePoint at, Failure failure);
  [[nodiscard]] std::optional<Failure> refuse_for_health();
  [[nodiscard]] std::optional<Failure> conclude(Failure failure);

  [[nodiscard]] std::optional<TimePoint> plan_retry_locked(const Failure& failure,
                                                           const Target& failed_at,
                                                           const Waits& waits);
  [[nodiscard]] Waits predicted_waits() const;
  [[nodiscard]] bool is_well(std::string_view backup) const;
  [[nodiscard]] bool in_time(TimePoint start, Duration wait) const;
  [[nodiscard]] Requests under_way_locked(std::size_t but) const;
  void arm_adaptive();
  void add_adaptive();
  void answer(model::Degraded from, std::string_view text, model::FinishReason reason,
              const model::Usage& usage);
  void keep_answer(const Made& made, const model::Completion& completion);
  void tell(const Failure& failure);

  // Constant after construction.
  const std::shared_ptr<SlaContext> context_;
  const std::shared_ptr<RoutePolicy> policy_;
  const std::string model_;
  /// Kept to the end of the last attempt: what admission reserved is in use until then.
  const std::shared_ptr<model::GenerationRequest> outer_;
  const TimePoint accepted_;

  // Of the attempt that answers, on its executor's thread.
  bool collects_;  ///< for the cache
  std::string collected_;

  std::atomic<std::size_t> answering_{kNone};  ///< written under mutex_, once

  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<Made> made_;
  std::size_t under_way_ = 0;
  bool cancelled_ = false;
  bool ended_ = false;  ///< somebody has the right to tell the listener the end
  bool next_at_backup_ = false;
  std::optional<SlaContext::WaitId> wait_;  ///< may name one that is over
  std::optional<Timers::Id> adaptive_timer_;
};

}  // namespace weir::upstream
