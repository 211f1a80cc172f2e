// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/policy_call.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir::upstream {

using model::Completion;
using model::GenerationRequest;
using model::Refusal;
using model::RefusalReason;

PolicyCall::PolicyCall(std::shared_ptr<SlaContext> context, std::shared_ptr<RoutePolicy> policy,
                       std::string model, std::shared_ptr<GenerationRequest> outer)
    : context_(std::move(context)),
      policy_(std::move(policy)),
      model_(std::move(model)),
      outer_(std::move(outer)),
      accepted_(context_->clock.now()),
      collects_(policy_->options.degrade && is_cacheable(*outer_) &&
                policy_->cache.can_hold(outer_->prompt.size(), 0)) {}

std::optional<Refusal> PolicyCall::start() {
  count(policy_->requests);
  policy_->budget.deposit();
  const auto target = choose_target(model_, *policy_, context_->health);
  const auto end = target ? launch(*target, false) : refuse_for_health();
  // What fails on this thread, before anything was accepted, is a refusal.
  if (end) return std::get<Refusal>(*end);
  outer_->set_canceller([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->cancel();
  });
  return std::nullopt;
}

// ---- attempts -----------------------------------------------------------------------------------

std::optional<Failure> PolicyCall::launch(const Target& target, bool is_adaptive) {
  std::shared_ptr<GenerationRequest> request;
  std::size_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return std::nullopt;
    if (is_adaptive && (under_way_ == 0 || cancelled_ || answering_ != kNone)) return std::nullopt;
    number = made_.size();
    request = attempt_request(*outer_, std::make_shared<Attempt>(shared_from_this(), number));
    made_.push_back({request, target, context_->clock.now(), is_adaptive});
    ++under_way_;
  }
  // cancel() and claim() reach the request from here on: it is then refused as cancelled.
  if (auto refusal = context_->models.submit(target.model, std::move(request))) {
    return attempt_failed(number, std::move(*refusal));
  }
  arm_adaptive();
  return std::nullopt;
}

bool PolicyCall::claim(std::size_t attempt) {
  if (answering_.load(std::memory_order_acquire) == attempt) return true;
  Requests losers;
  std::optional<Timers::Id> timer;
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || answering_ != kNone) return false;
    answering_.store(attempt, std::memory_order_release);
    losers = under_way_locked(attempt);
    timer = std::exchange(adaptive_timer_, std::nullopt);
    if (made_[attempt].is_adaptive) count(policy_->adaptive_wins);
  }
  if (timer) context_->timers.cancel(*timer);
  for (const auto& loser : losers) loser->cancel();
  return true;
}

void PolicyCall::logprobs(std::span<const model::TokenLogprob> tokens) {
  outer_->listener->on_logprobs(tokens);
}

void PolicyCall::text(std::string_view piece) {
  if (collects_) {
    collected_ += piece;
    if (!policy_->cache.can_hold(outer_->prompt.size(), collected_.size())) {
      collects_ = false;
      collected_ = {};
    }
  }
  outer_->listener->on_text(piece);
}

void PolicyCall::vectors(std::span<const float> values) { outer_->listener->on_vectors(values); }

void PolicyCall::degraded(model::Degraded from) {
  collects_ = false;
  outer_->listener->on_degraded(from);
}

bool PolicyCall::client_wants_more() const { return outer_->listener->wants_more(); }

void PolicyCall::completed(std::size_t attempt, const Completion& completion) {
  const bool answers = claim(attempt);
  Made made;
  {
    const std::lock_guard lock(mutex_);
    made = made_[attempt];
    made_[attempt].request.reset();
    --under_way_;
    if (answers) ended_ = true;
  }
  context_->health.of(made.target.model).record(true);
  if (!answers) return;
  keep_answer(made, completion);
  // The client counts from when the request was accepted, not from this attempt.
  Completion whole = completion;
  const Duration before = made.started - accepted_;
  whole.queued += before;
  whole.first_token += before;
  whole.total += before;
  outer_->listener->on_complete(whole);
}

void PolicyCall::failed(std::size_t attempt, Failure failure) {
  if (const auto end = attempt_failed(attempt, std::move(failure))) tell(*end);
}

std::optional<Failure> PolicyCall::attempt_failed(std::size_t attempt, Failure failure) {
  const Waits waits = predicted_waits();
  std::shared_ptr<GenerationRequest> done;  // let go of after the lock
  std::optional<TimePoint> next;
  {
    const std::lock_guard lock(mutex_);
    done = std::move(made_[attempt].request);
    const Target target = made_[attempt].target;
    --under_way_;
    const std::size_t answering = answering_.load(std::memory_order_relaxed);
    const bool overtaken = answering != kNone && answering != attempt;
    if (!overtaken && !cancelled_ && speaks_against_model(failure)) {
      context_->health.of(target.model).record(false);
    }
    if (ended_ || overtaken) return std::nullopt;
    if (answering == attempt) {
      ended_ = true;
      return failure;
    }
    if (under_way_ > 0) return std::nullopt;
    if (cancelled_) {
      ended_ = true;
      return failure;
    }
    next = plan_retry_locked(failure, target, waits);
    if (!next) ended_ = true;
  }
  return next ? wait_until(*next, std::move(failure)) : conclude(std::move(failure));
}

PolicyCall::Requests PolicyCall::under_way_locked(std::size_t but) const {
  Requests requests;
  for (std::size_t i = 0; i < made_.size(); ++i) {
    if (i != but && made_[i].request) requests.push_back(made_[i].request);
  }
  return requests;
}

void PolicyCall::cancel() {
  Requests requests;
  std::optional<SlaContext::WaitId> wait;
  bool ends_here = false;
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || cancelled_) return;
    cancelled_ = true;
    requests = under_way_locked(kNone);
    wait = std::exchange(wait_, std::nullopt);
    ends_here = under_way_ == 0;
    ended_ = ends_here;
  }
  if (wait) context_->forget(*wait);
  for (const auto& request : requests) request->cancel();
  if (ends_here) tell(make_error(Code::kCancelled, "the request was cancelled"));
}

// ---- between attempts ---------------------------------------------------------------------------

std::optional<TimePoint> PolicyCall::plan_retry_locked(const Failure& failure,
                                                       const Target& failed_at,
                                                       const Waits& waits) {
  const auto& retry = policy_->options.retry;
  if (!retry || made_.size() >= retry->max_attempts || !worth_retrying(failure) ||
      context_->stopping()) {
    return std::nullopt;
  }
  const std::string_view backup = backup_of(model_, policy_->options);
  const bool is_last = made_.size() + 1 == retry->max_attempts;
  const bool closed = closed_for_now(failure);
  const bool at_backup = is_well(backup) && (closed || (is_last && !failed_at.is_backup) ||
                                             context_->health.of(model_).failing());
  // Whoever says that it cannot be asked now is believed.
  if (closed && (!at_backup || failed_at.is_backup)) return std::nullopt;

  const TimePoint now = context_->clock.now();
  // Only who has failed already is given time.
  const TimePoint start =
      at_backup && !failed_at.is_backup
          ? now
          : now + context_->backoff.draw(retry->backoff, static_cast<std::uint32_t>(made_.size()));
  if (!in_time(start, at_backup ? waits.backup : waits.model)) return std::nullopt;
  if (!policy_->budget.withdraw()) {
    count(policy_->over_budget);
    return std::nullopt;
  }
  count(policy_->retries);
  next_at_backup_ = at_backup;
  return start;
}

bool PolicyCall::is_well(std::string_view backup) const {
  return !backup.empty() &&
         !context_->health.of(backup).below(policy_->options.fast_fail->min_health);
}

PolicyCall::Waits PolicyCall::predicted_waits() const {
  Waits waits;
  // Without a deadline nothing depends on them; at the end the models may be gone.
  if (!outer_->deadline || !context_->enter()) return waits;
  const auto of = [this](std::string_view model) {
    return context_->models.predicted_wait(model, outer_->priority).value_or(Duration::zero());
  };
  waits.model = of(model_);
  const std::string_view backup = backup_of(model_, policy_->options);
  if (!backup.empty()) waits.backup = of(backup);
  context_->leave();
  return waits;
}

bool PolicyCall::in_time(TimePoint start, Duration wait) const {
  return !outer_->deadline || (start < *outer_->deadline && wait < *outer_->deadline - start);
}

std::optional<Failure> PolicyCall::wait_until(TimePoint at, Failure failure) {
  const auto wait = context_->wait(shared_from_this(), at);
  {
    const std::lock_guard lock(mutex_);
    if (!ended_ && wait) {
      wait_ = wait;
      return std::nullopt;
    }
    if (!ended_) {
      ended_ = true;
      return failure;
    }
  }
  if (wait) context_->forget(*wait);  // cancelled meanwhile
  return std::nullopt;
}

void PolicyCall::resume() {
  if (!context_->enter()) return abandon();
  bool at_backup = false;
  {
    const std::lock_guard lock(mutex_);
    at_backup = std::exchange(next_at_backup_, false);
  }
  std::optional<Target> target;
  if (const std::string_view backup = backup_of(model_, policy_->options);
      at_backup && is_well(backup)) {
    count(policy_->backup_attempts);
    target = Target{std::string(backup), true};
  }
  if (!target) target = choose_target(model_, *policy_, context_->health);
  const auto end = target ? launch(*target, false) : refuse_for_health();
  context_->leave();
  if (end) tell(*end);
}

void PolicyCall::abandon() {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = true;
  }
  tell(make_error(Code::kUnavailable, "the agent is stopping"));
}

void PolicyCall::arm_adaptive() {
  const auto& adaptive = policy_->options.adaptive_retry;
  if (!adaptive) return;
  const std::lock_guard lock(mutex_);
  if (ended_ || cancelled_ || answering_ != kNone || under_way_ == 0 ||
      made_.size() >= adaptive->max_attempts) {
    return;
  }
  adaptive_timer_ =
      context_->timers.arm(context_->clock.now() + adaptive->after, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->add_adaptive();
      });
}

void PolicyCall::add_adaptive() {
  {
    const std::lock_guard lock(mutex_);
    adaptive_timer_.reset();
    if (ended_ || cancelled_ || answering_ != kNone || under_way_ == 0 ||
        made_.size() >= policy_->options.adaptive_retry->max_attempts) {
      return;
    }
  }
  if (!context_->enter()) return;
  std::optional<Failure> end;
  if (in_time(context_->clock.now(), predicted_waits().model)) {
    if (!policy_->budget.withdraw()) {
      count(policy_->over_budget);
    } else if (const auto target = choose_target(model_, *policy_, context_->health)) {
      count(policy_->adaptive_attempts);
      end = launch(*target, true);
    }
  }
  context_->leave();
  if (end) tell(*end);
}

// ---- the end ------------------------------------------------------------------------------------

std::optional<Failure> PolicyCall::refuse_for_health() {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return std::nullopt;
    ended_ = true;
  }
  // Within a time constant the probes have told whether it is well again.
  return conclude(Refusal{RefusalReason::kBreakerOpen,
                          fmt::format("too many requests for model \"{}\" failed lately", model_),
                          SuccessWindow::kTimeConstant});
}

std::optional<Failure> PolicyCall::conclude(Failure failure) {
  const auto& degrade = policy_->options.degrade;
  const bool late = outer_->deadline && context_->clock.now() >= *outer_->deadline;
  // No text stands for a vector.
  if (!degrade || late || context_->stopping() || outer_->embedding ||
      outer_->cancelled.load(std::memory_order_relaxed)) {
    return failure;
  }
  if (may_answer_from_cache(failure) && is_cacheable(*outer_)) {
    if (const auto kept = policy_->cache.get(cache_key(model_, *outer_))) {
      count(policy_->degraded_cached);
      answer(model::Degraded::kCached, kept->text, kept->reason, kept->usage);
      return std::nullopt;
    }
  }
  if (may_answer_default(failure) && !degrade->default_text.empty()) {
    count(policy_->degraded_default);
    answer(model::Degraded::kDefault, degrade->default_text, model::FinishReason::kStop, {});
    return std::nullopt;
  }
  return failure;
}

void PolicyCall::answer(model::Degraded from, std::string_view text, model::FinishReason reason,
                        const model::Usage& usage) {
  const Duration taken = context_->clock.now() - accepted_;
  outer_->listener->on_degraded(from);
  if (!text.empty()) outer_->listener->on_text(text);
  outer_->listener->on_complete({reason, usage, taken, taken, taken});
}

void PolicyCall::keep_answer(const Made& made, const Completion& completion) {
  if (!collects_ || made.target.is_backup) return;
  policy_->cache.put(cache_key(model_, *outer_),
                     {std::move(collected_), completion.reason, completion.usage});
}

void PolicyCall::tell(const Failure& failure) {
  if (const auto* error = std::get_if<Error>(&failure)) {
    outer_->listener->on_error(*error);
  } else {
    outer_->listener->on_refused(std::get<Refusal>(failure));
  }
}

}  // namespace weir::upstream
