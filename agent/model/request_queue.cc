// SPDX-License-Identifier: Apache-2.0
#include "agent/model/request_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir::model {

namespace {

using std::chrono::milliseconds;

std::int64_t whole_ms(Duration duration) {
  return std::chrono::duration_cast<milliseconds>(duration).count();
}

}  // namespace

std::shared_ptr<RequestQueue> RequestQueue::create(schedule::QueueOptions options,
                                                   std::size_t concurrency, const Clock& clock,
                                                   schedule::TimerThread& timers,
                                                   std::size_t takers) {
  return std::shared_ptr<RequestQueue>(
      new RequestQueue(std::move(options), concurrency, clock, timers, takers));
}

RequestQueue::RequestQueue(schedule::QueueOptions options, std::size_t concurrency,
                           const Clock& clock, schedule::TimerThread& timers, std::size_t takers)
    : concurrency_(concurrency),
      clock_(clock),
      timers_(timers),
      queue_(std::move(options)),
      rate_(clock),
      idle_since_(clock.now()),
      takers_(takers, [this] { return has_work_locked(); }) {}

std::optional<Refusal> RequestQueue::submit(std::shared_ptr<GenerationRequest> request) {
  const schedule::QueueKey key{request->priority, request->deadline, request->tenant,
                               estimated_tokens(*request)};
  const std::shared_ptr<GenerationRequest> submitted = request;
  Ticket ticket;
  std::shared_ptr<const Prepare> prepare;
  {
    const std::lock_guard lock(mutex_);
    if (retired_) {
      return Refusal{RefusalReason::kDraining, "this version of the model is let go", std::nullopt};
    }
    const TimePoint now = clock_.now();
    auto refusal = refusal_locked(*request, key, now);
    if (!refusal) {
      auto pushed = queue_.push_unready(now, key, {std::move(request), {}});
      if (const auto* bound = std::get_if<schedule::QueueBound>(&pushed)) {
        refusal = full_locked(key, *bound);
      } else {
        ticket = std::get<Ticket>(pushed);
      }
    }
    if (refusal) {
      ++refused_[static_cast<std::size_t>(refusal->reason)];
      return refusal;
    }
    ++accepted_;
    ++outstanding_;
    arm_locked();
    prepare = prepare_;
    if (!prepare) takers_.wake_one();
  }
  // Not under the lock: it calls at once when cancel() came first.
  submitted->set_canceller([weak = weak_from_this(), ticket] {
    if (const auto self = weak.lock()) self->cancelled(ticket);
  });
  if (prepare) (*prepare)(ticket, *submitted);
  return std::nullopt;
}

void RequestQueue::prepare_with(Prepare prepare) {
  std::vector<std::pair<Ticket, std::shared_ptr<GenerationRequest>>> unprepared;
  const auto shared = std::make_shared<const Prepare>(std::move(prepare));
  {
    const std::lock_guard lock(mutex_);
    prepare_ = shared;
    for (const Ticket ticket : queue_.unready()) {
      unprepared.emplace_back(ticket, queue_.find(ticket)->request);
    }
  }
  for (const auto& [ticket, request] : unprepared) (*shared)(ticket, *request);
}

std::shared_ptr<GenerationRequest> RequestQueue::waiting(Ticket ticket) {
  const std::lock_guard lock(mutex_);
  Waiting* waiting = queue_.find(ticket);
  return waiting == nullptr ? nullptr : waiting->request;
}

void RequestQueue::prepared(Ticket ticket, Result<std::vector<std::int32_t>> prompt) {
  std::vector<Outcome> ended;
  {
    const std::lock_guard lock(mutex_);
    Waiting* waiting = queue_.find(ticket);
    if (waiting == nullptr) return;
    const TimePoint now = clock_.now();
    if (prompt) {
      const std::uint64_t tokens = prompt->size() + waiting->request->max_tokens;
      waiting->prompt = *std::move(prompt);
      queue_.make_ready(now, ticket, tokens);
      takers_.wake_one();
      return;
    }
    std::vector<Waiting> unfit;
    unfit.push_back(*queue_.remove(ticket));
    ended = end_waiting_locked(std::move(unfit), prompt.error(), now);
    arm_locked();
  }
  finish(ended);
}

std::optional<Refusal> RequestQueue::refusal_locked(const GenerationRequest& request,
                                                    const schedule::QueueKey& key, TimePoint now) {
  if (draining_) {
    return Refusal{RefusalReason::kDraining, "the agent is draining", std::nullopt};
  }
  if (request.cancelled.load(std::memory_order_relaxed)) {
    return Refusal{RefusalReason::kCancelled, "the request was cancelled", std::nullopt};
  }
  if (is_past_deadline(request, now)) {
    return Refusal{RefusalReason::kDeadline, "the deadline has passed", std::nullopt};
  }
  if (refuse_until_ && now < *refuse_until_) {
    return Refusal{RefusalReason::kLoading, refuse_why_,
                   std::max(std::chrono::seconds(1),
                            std::chrono::ceil<std::chrono::seconds>(*refuse_until_ - now))};
  }
  return hopeless_locked(key, now);
}

// Refuses only what is nearly certain to be late: what may overtake, or end early, is let in.
std::optional<Refusal> RequestQueue::hopeless_locked(const schedule::QueueKey& key,
                                                     TimePoint now) const {
  if (!key.deadline) return std::nullopt;
  // An idle executor tries: that is how an estimate that has become wrong is ever corrected.
  if (takers_.held() == 0 && queue_.empty()) return std::nullopt;
  const auto service = rate_.service_time(key.tokens);
  if (!service) return std::nullopt;
  Duration wait{};
  if (takers_.held() + queue_.size() >= concurrency_) {
    wait = rate_.drain_time(queue_.surely_ahead(key)).value_or(Duration::zero());
  }
  const Duration left = *key.deadline - now;
  if (wait + *service <= left) return std::nullopt;
  return Refusal{RefusalReason::kDeadline,
                 fmt::format("the deadline is in {} ms; waiting for {} ms and {} ms of work are "
                             "expected",
                             whole_ms(left), whole_ms(wait), whole_ms(*service)),
                 std::nullopt};
}

Refusal RequestQueue::full_locked(const schedule::QueueKey& key, schedule::QueueBound bound) const {
  const auto& options = queue_.options();
  const auto& level = options.levels[static_cast<std::size_t>(key.level)];
  if (key.tokens > std::min(options.all.max_tokens, level.max_tokens)) {
    return {RefusalReason::kQueueFull,
            fmt::format("{} tokens are more than may ever wait (bound: {})", key.tokens,
                        to_string(bound)),
            std::nullopt};
  }
  return {RefusalReason::kQueueFull,
          fmt::format("{} requests with {} tokens are waiting already (bound: {})", queue_.size(),
                      queue_.load().tokens, to_string(bound)),
          schedule::retry_after(expected_wait_locked(key.level))};
}

void RequestQueue::cancelled(Ticket ticket) {
  std::vector<Outcome> outcomes;
  {
    const std::lock_guard lock(mutex_);
    auto waiting = queue_.remove(ticket);
    if (!waiting) {
      takers_.poke_holders();  // it is worked on, or was: who rests because of it should look
      return;
    }
    ++cancelled_;
    outcomes.push_back({Taken{.request = std::move(waiting->request), .prompt = {}},
                        make_error(Code::kCancelled, "the request was cancelled")});
  }
  finish(outcomes);
}

void RequestQueue::begin_drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

bool RequestQueue::retire(bool if_idle) {
  const std::lock_guard lock(mutex_);
  if (if_idle && outstanding_ > 0) return false;
  retired_ = true;
  takers_.poke_all();
  return true;
}

bool RequestQueue::retired() const {
  const std::lock_guard lock(mutex_);
  return retired_;
}

std::optional<TimePoint> RequestQueue::idle_since() const {
  const std::lock_guard lock(mutex_);
  return outstanding_ == 0 ? std::optional(idle_since_) : std::nullopt;
}

bool RequestQueue::served() const {
  const std::lock_guard lock(mutex_);
  return accepted_ > 0;
}

void RequestQueue::poke_when_idle() {
  const std::lock_guard lock(mutex_);
  poke_when_idle_ = true;
}

bool RequestQueue::wait_idle(TimePoint deadline) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline, [this] { return outstanding_ == 0; });
}

std::optional<Duration> RequestQueue::predicted_wait(std::int32_t level) const {
  const std::lock_guard lock(mutex_);
  if (!rate_.requests_per_second()) return std::nullopt;
  if (takers_.held() + queue_.size() < concurrency_ || level == 0) return Duration::zero();
  return rate_.drain_time(queue_.ahead(level - 1)).value_or(Duration::zero());
}

std::optional<Duration> RequestQueue::expected_wait_locked(std::int32_t level) const {
  const auto requests_rate = rate_.requests_per_second();
  if (!requests_rate) return std::nullopt;
  if (takers_.held() + queue_.size() < concurrency_) return Duration::zero();
  // Until one of those that are worked on has ended, nobody leaves the queue.
  const auto first = std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(1 / *requests_rate, 1e6)));
  return first + rate_.drain_time(queue_.ahead(level)).value_or(Duration::zero());
}

std::optional<std::int32_t> RequestQueue::most_urgent(std::size_t taker) const {
  const std::lock_guard lock(mutex_);
  if (takers_.share(taker, queue_.ready()) == 0) return std::nullopt;
  for (std::int32_t level = 0; level < schedule::kLevels; ++level) {
    if (queue_.load(level).requests > 0) return level;
  }
  return std::nullopt;
}

bool RequestQueue::has_work() const {
  const std::lock_guard lock(mutex_);
  return has_work_locked();
}

bool RequestQueue::has_work_locked() const {
  return prepare_ ? queue_.ready() > 0 : !queue_.empty();
}

void RequestQueue::read(ModelInfo& info) const {
  const std::lock_guard lock(mutex_);
  info.queued = static_cast<std::uint32_t>(queue_.size());
  info.queued_tokens = queue_.load().tokens;
  info.overdue = static_cast<std::uint32_t>(queue_.overdue());
  info.accepted = accepted_;
  info.completed = completed_;
  info.failed = failed_;
  info.cancelled = cancelled_;
  info.expired = expired_;
  info.refused = refused_;
  info.promoted = queue_.promoted();
  info.queue_wait = queue_wait_;
  if (draining_ && info.state != ModelInfo::State::kFailed) {
    info.state = ModelInfo::State::kDraining;
  }
}

void RequestQueue::poke() {
  const std::lock_guard lock(mutex_);
  takers_.poke_all();
}

void RequestQueue::wait_for_work(std::size_t taker) {
  std::unique_lock lock(mutex_);
  takers_.idle(taker);
  rate_.set_busy(takers_.any_busy());
  takers_.wait(lock, taker);
}

void RequestQueue::rest(Duration longest, bool for_requests, std::size_t taker) {
  std::unique_lock lock(mutex_);
  takers_.rest(lock, taker, longest, for_requests);
}

std::vector<Taken> RequestQueue::take(std::size_t most, std::size_t taker) {
  std::vector<Taken> all;
  std::vector<Outcome> late;
  {
    const std::lock_guard lock(mutex_);
    const TimePoint now = clock_.now();
    late = end_waiting_locked(queue_.expire(now), Error{}, now);
    const std::size_t count = takers_.claim(taker, queue_.ready(), most);
    while (all.size() < count) {
      auto popped = queue_.pop(now);
      if (!popped) break;
      queue_wait_.add(now - popped->pushed);
      auto& [request, prompt] = popped->value;
      all.push_back({std::move(request), std::move(prompt), popped->pushed, now, popped->level,
                     popped->tokens});
    }
    takers_.took(taker, all.size());
    rate_.set_busy(true);
    arm_locked();
  }
  finish(late);
  return all;
}

void RequestQueue::settle(const std::vector<Outcome>& outcomes, std::size_t taker) {
  if (outcomes.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    const TimePoint now = clock_.now();
    takers_.gave_back(taker, outcomes.size());
    for (const Outcome& outcome : outcomes) {
      const Taken& taken = outcome.of;
      const Error* error = std::get_if<Error>(&outcome.result);
      count_locked(*taken.request, error, now);
      queue_.charge(taken.request->tenant, taken.level,
                    static_cast<std::int64_t>(outcome.tokens) -
                        static_cast<std::int64_t>(taken.estimated_tokens));
      // What ended before anything was done for it says nothing about the next.
      if (error == nullptr || outcome.tokens > 0) {
        rate_.completed(taken.estimated_tokens, now - taken.taken);
      }
    }
  }
  finish(outcomes);
}

void RequestQueue::expire() {
  std::vector<Outcome> late;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    const TimePoint now = clock_.now();
    late = end_waiting_locked(queue_.expire(now), Error{}, now);
    arm_locked();
  }
  finish(late);
}

void RequestQueue::fail_waiting(const Error& error) {
  std::vector<Outcome> ended;
  {
    const std::lock_guard lock(mutex_);
    ended = end_waiting_locked(queue_.take_all(), error, clock_.now());
    arm_locked();
  }
  finish(ended);
}

void RequestQueue::refuse_until(TimePoint when, std::string why) {
  const std::lock_guard lock(mutex_);
  refuse_until_ = when;
  refuse_why_ = std::move(why);
}

void RequestQueue::accept() {
  const std::lock_guard lock(mutex_);
  refuse_until_.reset();
}

void RequestQueue::close() {
  std::optional<schedule::TimerThread::Timer> timer;
  std::shared_ptr<const Prepare> prepare;  // what it owns goes outside the lock
  {
    std::unique_lock lock(mutex_);
    closed_ = true;
    timer = std::exchange(timer_, std::nullopt);
    // Somebody else may be about to tell an end.
    idle_.wait(lock, [this] { return outstanding_ == 0; });
    prepare = std::exchange(prepare_, nullptr);
  }
  if (timer) timers_.cancel(*timer);
}

void RequestQueue::arm_locked() {
  const auto next = closed_ ? std::nullopt : queue_.next_event();
  if (timer_ && next == timer_->when) return;
  // A timer that is running already finds nothing to do, or what it should.
  if (timer_) timers_.disarm(*timer_);
  timer_.reset();
  if (!next) return;
  timer_ = timers_.arm(*next, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->expire();
  });
}

void RequestQueue::count_locked(const GenerationRequest& request, const Error* error,
                                TimePoint now) {
  if (error == nullptr) {
    ++completed_;
  } else if (error->code == Code::kCancelled) {
    ++cancelled_;
  } else if (error->code == Code::kResourceExhausted && is_past_deadline(request, now)) {
    ++expired_;
  } else {
    ++failed_;
  }
}

std::vector<Outcome> RequestQueue::end_waiting_locked(std::vector<Waiting> ended,
                                                      const Error& error, TimePoint now) {
  std::vector<Outcome> outcomes;
  outcomes.reserve(ended.size());
  for (auto& [request, prompt] : ended) {
    Error reason = reason_to_leave(*request, now).value_or(error);
    count_locked(*request, &reason, now);
    outcomes.push_back({Taken{.request = std::move(request), .prompt = {}}, std::move(reason)});
  }
  return outcomes;
}

void RequestQueue::finish(const std::vector<Outcome>& outcomes) {
  if (outcomes.empty()) return;
  for (const Outcome& outcome : outcomes) {
    if (const Error* error = std::get_if<Error>(&outcome.result)) {
      outcome.of.request->listener->on_error(*error);
    } else {
      outcome.of.request->listener->on_complete(std::get<Completion>(outcome.result));
    }
  }
  const std::lock_guard lock(mutex_);
  outstanding_ -= outcomes.size();
  if (outstanding_ > 0) return;
  idle_since_ = clock_.now();
  idle_.notify_all();
  if (retired_) {
    takers_.poke_all();  // who may end now
  } else if (poke_when_idle_) {
    takers_.poke(0);
  }
}

}  // namespace weir::model
