// SPDX-License-Identifier: Apache-2.0
#include "agent/model/one_shot_runner.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <limits>
#include <mutex>
#include <system_error>
#include <utility>
#include <variant>

#include "agent/base/spin.h"
#include "agent/model/one_shot_batch.h"
#include "agent/schedule/batch_reading.h"
#include "agent/schedule/fair_queue.h"
#include "agent/schedule/service_rate.h"

namespace weir::model {

namespace {

using schedule::BatchCause;
using schedule::BatchMode;
using RequestPtr = std::shared_ptr<GenerationRequest>;
using Queue = schedule::FairQueue<RequestPtr>;

// Far beyond any window, and far from overflowing what a condition variable adds to its clock.
constexpr Duration kLongestSleep = std::chrono::hours(1);
// Windows are some milliseconds; the kernel's default slack of 50 us is added to each.
constexpr unsigned long kTimerSlackNs = 1000;

double milliseconds(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

}  // namespace

class OneShotRunner::Core : public std::enable_shared_from_this<Core> {
 public:
  Core(OneShotOptions options, std::unique_ptr<schedule::BatchExecutor> executor,
       const Clock& clock, schedule::TimerThread& timers);

  std::optional<Refusal> submit(RequestPtr request);
  void begin_drain();
  bool wait_idle(TimePoint deadline);
  ModelInfo info() const;
  std::optional<Duration> predicted_wait(std::int32_t level) const;

  /// The thread of an instance, until stop().
  void run(std::size_t number);
  void stop();
  /// Ends what is left. Once no run() is under way.
  void end_all();

 private:
  struct Instance {
    std::condition_variable wake;  ///< no longer asleep, or stopping_
    bool asleep = false;
    TimePoint wakes_at;    ///< while asleep
    std::size_t size = 0;  ///< of the batch that it executes; 0: none
    TimePoint started;     ///< while it executes
  };

  std::optional<Refusal> refusal_locked(const schedule::QueueKey& key,
                                        const GenerationRequest& request, TimePoint now) const;
  Refusal refused(Refusal refusal);
  schedule::BatchQueue waiting_locked() const;
  Instance* whom_to_wake_locked(TimePoint now);
  void sleep(Instance& instance, std::unique_lock<std::mutex>& lock, Duration longest);
  void collect_locked(Instance& instance, std::size_t size, OneShotBatch& batch, TimePoint now);
  void account_locked(Instance& instance, Duration took, BatchCause cause,
                      const OneShotBatch::Ends& ends);
  std::optional<Duration> wait_locked(std::size_t ahead, TimePoint now) const;
  void arm_locked();
  void expire();
  void cancel(Queue::Handle handle);
  void ended(std::size_t requests);

  // Constant after construction.
  const OneShotOptions options_;
  const std::unique_ptr<schedule::BatchExecutor> executor_;
  const Clock& clock_;
  schedule::TimerThread& timers_;
  const Duration linger_;

  mutable std::mutex mutex_;
  std::condition_variable idle_;  ///< wait_idle(): outstanding_ became 0
  // Guarded by mutex_.
  Queue queue_;
  schedule::BatchFormer former_;
  schedule::BatchReading batches_;
  ModelInfo info_;                  ///< counters and what is constant
  std::deque<Instance> instances_;  ///< never grows after construction
  std::size_t asleep_ = 0;          ///< instances
  std::size_t waking_ = 0;          ///< instances woken that have not looked at the queue yet
  std::optional<schedule::TimerThread::Timer> timer_;  ///< no later than queue_.next_event()
  std::size_t outstanding_ = 0;  ///< accepted, and the listener has not heard the end
  bool draining_ = false;
  bool stopping_ = false;
};

OneShotRunner::Core::Core(OneShotOptions options, std::unique_ptr<schedule::BatchExecutor> executor,
                          const Clock& clock, schedule::TimerThread& timers)
    : options_(std::move(options)),
      executor_(std::move(executor)),
      clock_(clock),
      timers_(timers),
      linger_(options_.batch.mode == BatchMode::kFixed ? options_.batch.timeout : Duration(0)),
      queue_(options_.queue),
      former_(options_.batch),
      instances_(options_.batch.instances) {
  info_.name = options_.name;
  info_.kind = options_.kind;
  info_.state = ModelInfo::State::kReady;
  info_.load_progress = 1;
  info_.created_unix_seconds = std::chrono::duration_cast<std::chrono::seconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count();
}

// ---- requests come -----------------------------------------------------------------------------

std::optional<Refusal> OneShotRunner::Core::refusal_locked(const schedule::QueueKey& key,
                                                           const GenerationRequest& request,
                                                           TimePoint now) const {
  if (draining_) {
    return Refusal{RefusalReason::kDraining, "the agent is draining", std::nullopt};
  }
  if (request.cancelled.load(std::memory_order_relaxed)) {
    return Refusal{RefusalReason::kCancelled, "the request was cancelled", std::nullopt};
  }
  if (!key.deadline) return std::nullopt;
  if (*key.deadline <= now) {
    return Refusal{RefusalReason::kDeadline, "the deadline has passed", std::nullopt};
  }
  // An idle instance tries: that is how an estimate that has become wrong is ever corrected.
  if (queue_.empty() && asleep_ == instances_.size()) return std::nullopt;
  const auto service = former_.step_time().predict(1);
  const auto cannot_be_met = [&](std::size_t ahead) -> std::optional<Duration> {
    const auto wait = wait_locked(ahead, now);
    if (wait && service && now + *wait + *service > *key.deadline) return wait;
    return std::nullopt;
  };
  // The cheap look first: nobody is behind more than all of the levels up to his own.
  if (!cannot_be_met(queue_.ahead(key.level).requests)) return std::nullopt;
  if (const auto wait = cannot_be_met(queue_.surely_ahead(key).requests)) {
    return Refusal{RefusalReason::kDeadline,
                   fmt::format("the deadline cannot be met: a wait of {:.1f} ms and {:.1f} ms of "
                               "work are predicted",
                               milliseconds(*wait), milliseconds(*service)),
                   std::nullopt};
  }
  return std::nullopt;
}

std::optional<Refusal> OneShotRunner::Core::submit(RequestPtr request) {
  GenerationRequest& kept = *request;  // lives as long as the caller or the queue has it
  const RequestPtr mine = request;
  const schedule::QueueKey key{kept.priority, kept.deadline, kept.tenant,
                               std::max<std::uint64_t>(1, tokens_of(kept.prompt))};
  Queue::Handle handle;
  Instance* wake = nullptr;
  {
    const auto lock = lock_spinning(mutex_);
    const TimePoint now = clock_.now();
    if (auto refusal = refusal_locked(key, kept, now)) return refused(std::move(*refusal));
    auto pushed = queue_.push(now, key, std::move(request));
    if (const auto* bound = std::get_if<schedule::QueueBound>(&pushed)) {
      const auto wait = wait_locked(queue_.ahead(key.level).requests, now);
      return refused({RefusalReason::kQueueFull,
                      fmt::format("{} requests are waiting already: the bound of {} is reached",
                                  queue_.size(), to_string(*bound)),
                      schedule::retry_after(wait)});
    }
    handle = std::get<Queue::Handle>(pushed);
    former_.arrived(now);
    ++info_.accepted;
    ++outstanding_;
    if (key.deadline) arm_locked();
    wake = whom_to_wake_locked(now);
  }
  if (wake != nullptr) wake->wake.notify_one();
  mine->set_canceller([weak = weak_from_this(), handle] {
    if (const auto core = weak.lock()) core->cancel(handle);
  });
  return std::nullopt;
}

Refusal OneShotRunner::Core::refused(Refusal refusal) {
  ++info_.refused[static_cast<std::size_t>(refusal.reason)];
  return refusal;
}

schedule::BatchQueue OneShotRunner::Core::waiting_locked() const {
  return {queue_.size(), queue_.oldest().value_or(TimePoint{}), queue_.next_event()};
}

// Who is awake and idle looks at the queue before it sleeps, and wakes the next one itself. So at
// most one is on its way, and nobody is woken who would wake in time by himself.
OneShotRunner::Core::Instance* OneShotRunner::Core::whom_to_wake_locked(TimePoint now) {
  if (asleep_ == 0 || waking_ > 0) return nullptr;
  const auto start = former_.start(waiting_locked(), now);
  if (!start) return nullptr;
  Instance* chosen = nullptr;
  for (Instance& instance : instances_) {
    if (!instance.asleep) continue;
    if (instance.wakes_at <= start->at) {
      if (start->at > now) return nullptr;
      chosen = &instance;  // its own time has come, but not its thread
      break;
    }
    if (chosen == nullptr) chosen = &instance;
  }
  chosen->asleep = false;
  --asleep_;
  ++waking_;
  return chosen;
}

// ---- batches -----------------------------------------------------------------------------------

void OneShotRunner::Core::sleep(Instance& instance, std::unique_lock<std::mutex>& lock,
                                Duration longest) {
  instance.asleep = true;
  instance.wakes_at = longest >= kLongestSleep ? TimePoint::max() : clock_.now() + longest;
  ++asleep_;
  instance.wake.wait_for(lock, std::min(longest, kLongestSleep),
                         [&] { return !instance.asleep || stopping_; });
  if (instance.asleep) {
    instance.asleep = false;
    --asleep_;
  } else {
    --waking_;
  }
}

void OneShotRunner::Core::run(std::size_t number) {
  // The kernel's limit is 15 characters.
  pthread_setname_np(pthread_self(), ("batch-" + options_.name).substr(0, 15).c_str());
  prctl(PR_SET_TIMERSLACK, kTimerSlackNs, 0, 0, 0);
  // An instance that is woken does not push the I/O thread aside that woke it: where all CPUs are
  // busy, that one hands in all it has first, which makes one larger batch of many small ones.
  // Refused, each batch costs more switches, and nothing else.
  const sched_param no_priority{};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &no_priority);
  Instance& self = instances_[number];
  OneShotBatch batch(options_.batch.max_batch_size);
  // After a batch the next member usually comes soon. Who sleeps no longer than the window needs
  // not be woken for the first of them, only to sleep again.
  bool lingers = false;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const TimePoint now = clock_.now();
    if (queue_.next_event().value_or(TimePoint::max()) <= now) {
      // The timer may be late; nobody is executed in vain.
      lock.unlock();
      expire();
      lock.lock();
      continue;
    }
    const auto decision = former_.decide(waiting_locked(), now);
    if (decision.take == 0) {
      const Duration idle = lingers ? linger_ : kLongestSleep;
      lingers = false;
      sleep(self, lock, decision.look_again ? *decision.look_again - now : idle);
      continue;
    }
    collect_locked(self, decision.take, batch, now);
    Instance* const other = whom_to_wake_locked(now);
    lock.unlock();
    if (other != nullptr) other->wake.notify_one();
    batch.execute(*executor_, number, clock_);
    const OneShotBatch::Ends ends = batch.tell();
    lock.lock();
    account_locked(self, batch.took(), decision.cause, ends);
    lingers = linger_ > Duration::zero();
  }
}

void OneShotRunner::Core::collect_locked(Instance& instance, std::size_t size, OneShotBatch& batch,
                                         TimePoint now) {
  for (std::size_t i = 0; i < size; ++i) {
    auto popped = queue_.pop(now);
    if (!popped) break;
    info_.queue_wait.add(now - popped->pushed);
    batch.add(std::move(popped->value), popped->pushed);
    ++instance.size;
  }
  instance.started = now;
}

void OneShotRunner::Core::account_locked(Instance& instance, Duration took, BatchCause cause,
                                         const OneShotBatch::Ends& ends) {
  former_.ran(instance.size, took);
  batches_.add(instance.size, cause);
  info_.completed += ends.completed;
  info_.failed += ends.failed;
  info_.cancelled += ends.cancelled;
  info_.expired += ends.expired;
  info_.prompt_tokens += ends.prompt_tokens;
  info_.completion_tokens += ends.completion_tokens;
  outstanding_ -= instance.size;
  if (outstanding_ == 0) idle_.notify_all();
  instance.size = 0;
}

// ---- requests leave before their turn ----------------------------------------------------------

/// One that comes early finds nobody late, and is armed again: so deadlines that come in their
/// order, as those of equal timeouts do, arm it once. There is never more than one.
void OneShotRunner::Core::arm_locked() {
  const auto next = queue_.next_event();
  if (!next || (timer_ && timer_->when <= *next)) return;
  if (timer_) timers_.disarm(*timer_);
  timer_ = timers_.arm(*next, [weak = weak_from_this()] {
    if (const auto core = weak.lock()) core->expire();
  });
}

void OneShotRunner::Core::expire() {
  std::vector<RequestPtr> late;
  {
    const std::lock_guard lock(mutex_);
    const TimePoint now = clock_.now();
    late = queue_.expire(now);
    info_.expired += late.size();
    if (timer_ && timer_->when <= now) {
      timers_.disarm(*timer_);  // it runs, or somebody was here before it
      timer_.reset();
    }
    arm_locked();
  }
  for (const RequestPtr& request : late) request->listener->on_error(late_error());
  ended(late.size());
}

void OneShotRunner::Core::cancel(Queue::Handle handle) {
  std::optional<RequestPtr> request;
  {
    const std::lock_guard lock(mutex_);
    request = queue_.remove(handle);
    if (!request) return;  // in a batch, or over
    ++info_.cancelled;
  }
  (*request)->listener->on_error(cancelled_error());
  ended(1);
}

void OneShotRunner::Core::ended(std::size_t requests) {
  const std::lock_guard lock(mutex_);
  outstanding_ -= requests;
  if (outstanding_ == 0) idle_.notify_all();
}

// ---- the rest ----------------------------------------------------------------------------------

/// How long `ahead` requests keep a newcomer waiting, company aside; unset: not known.
std::optional<Duration> OneShotRunner::Core::wait_locked(std::size_t ahead, TimePoint now) const {
  const schedule::StepTime& step_time = former_.step_time();
  std::size_t size = options_.batch.max_batch_size;
  if (options_.batch.mode == BatchMode::kLearned) {
    size = step_time.knee(size, std::numeric_limits<double>::infinity());
  }
  const auto step = step_time.predict(size);
  if (!step) return std::nullopt;
  Duration until_idle = Duration::max();
  for (const Instance& instance : instances_) {
    const Duration left = instance.size == 0
                              ? Duration::zero()
                              : instance.started + *step_time.predict(instance.size) - now;
    until_idle = std::min(until_idle, std::max(left, Duration::zero()));
  }
  const auto rounds = static_cast<Duration::rep>(ahead / size / instances_.size());
  return until_idle + rounds * *step;
}

std::optional<Duration> OneShotRunner::Core::predicted_wait(std::int32_t level) const {
  const std::lock_guard lock(mutex_);
  return wait_locked(level > 0 ? queue_.ahead(level - 1).requests : 0, clock_.now());
}

void OneShotRunner::Core::begin_drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

bool OneShotRunner::Core::wait_idle(TimePoint deadline) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline, [this] { return outstanding_ == 0; });
}

ModelInfo OneShotRunner::Core::info() const {
  const std::lock_guard lock(mutex_);
  ModelInfo info = info_;
  if (draining_) info.state = ModelInfo::State::kDraining;
  info.queued = static_cast<std::uint32_t>(queue_.size());
  info.queued_tokens = queue_.load().tokens;
  info.overdue = static_cast<std::uint32_t>(queue_.overdue());
  info.promoted = queue_.promoted();
  for (const Instance& instance : instances_) {
    info.running += static_cast<std::uint32_t>(instance.size);
  }
  info.batches = batches_;
  info.batches->step_time = former_.step_time().line();
  return info;
}

void OneShotRunner::Core::stop() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = stopping_ = true;
    for (Instance& instance : instances_) instance.wake.notify_one();
  }
  executor_->interrupt();
}

void OneShotRunner::Core::end_all() {
  std::vector<RequestPtr> left;
  {
    const std::lock_guard lock(mutex_);
    left = queue_.take_all();
    info_.failed += left.size();
    if (timer_) timers_.disarm(*timer_);
    timer_.reset();
  }
  for (const RequestPtr& request : left) request->listener->on_error(stopping_error());
  std::unique_lock lock(mutex_);
  outstanding_ -= left.size();
  // Somebody else may be about to tell an end.
  idle_.wait(lock, [this] { return outstanding_ == 0; });
}

OneShotRunner::OneShotRunner(OneShotOptions options,
                             std::unique_ptr<schedule::BatchExecutor> executor, const Clock& clock,
                             schedule::TimerThread& timers) {
  const std::size_t instances = options.batch.instances;
  core_ = std::make_shared<Core>(std::move(options), std::move(executor), clock, timers);
  try {
    for (std::size_t i = 0; i < instances; ++i) {
      threads_.emplace_back([core = core_.get(), i] { core->run(i); });
    }
  } catch (const std::system_error&) {
    core_->stop();  // else those that run would be waited for, for ever
    throw;
  }
}

OneShotRunner::~OneShotRunner() {
  core_->stop();
  threads_.clear();
  core_->end_all();
}

std::optional<Refusal> OneShotRunner::submit(std::shared_ptr<GenerationRequest> request) {
  return core_->submit(std::move(request));
}

void OneShotRunner::begin_drain() { core_->begin_drain(); }

bool OneShotRunner::wait_idle(TimePoint deadline) { return core_->wait_idle(deadline); }

ModelInfo OneShotRunner::info() const { return core_->info(); }

std::optional<Duration> OneShotRunner::predicted_wait(std::int32_t level) const {
  return core_->predicted_wait(level);
}

}  // namespace weir::model
