// SPDX-License-Identifier: Apache-2.0
//
// The requests of one model, from their acceptance to their end: what waits, in the order of a
// FairQueue, and the count of what is worked on. Refuses what does not fit or cannot be in time.
// Whoever waits leaves at once when it is cancelled, on the canceller's thread, and at its
// deadline, on the timer's, whatever those who execute are doing.
//
// There are one or more takers (request_takers.h): each takes requests, works on them, and settles
// them. Who holds fewer gets the next one, and who holds none gets it at once; nobody leaves a
// request for longer than one round of its own to another one that holds fewer and does not come.
//
// A request that waits is prepared once, beside the executor: it has its place from the start, and
// can be taken when its prompt has become tokens.
//
// Thread-safe. Lives in a shared_ptr, because a request may outlive its executor and be cancelled
// then. Listeners are called outside the lock, each hears one end. Whoever takes requests hands
// each back to settle() once. Clock and timers must outlive close().
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/request_takers.h"
#include "agent/schedule/fair_queue.h"
#include "agent/schedule/service_rate.h"
#include "agent/schedule/timer.h"

namespace weir::model {

/// A request that has left the queue to be worked on.
struct Taken {
  std::shared_ptr<GenerationRequest> request;
  std::vector<std::int32_t> prompt;  ///< its tokens
  TimePoint accepted{};
  TimePoint taken{};
  std::int32_t level = 0;              ///< where its tenant was charged
  std::uint64_t estimated_tokens = 0;  ///< with what
};

/// How a request ended.
struct Outcome {
  Taken of;
  std::variant<Completion, Error> result;
  std::uint64_t tokens = 0;  ///< served: prompt and completion
};

class RequestQueue : public std::enable_shared_from_this<RequestQueue> {
  struct Waiting {
    std::shared_ptr<GenerationRequest> request;
    std::vector<std::int32_t> prompt;  ///< once it is ready
  };
  using Queue = schedule::FairQueue<Waiting>;

 public:
  /// Names an accepted request as long as it waits.
  using Ticket = Queue::Handle;

  /// Is to prepare the request, now or later: to call prepared() with what its prompt is. Called
  /// once for each request, on the thread that submits it.
  using Prepare = std::function<void(Ticket ticket, const GenerationRequest& request)>;

  /// `concurrency`: how many requests all takers together work on at the same time; >= 1. `takers`:
  /// >= 1.
  static std::shared_ptr<RequestQueue> create(schedule::QueueOptions options,
                                              std::size_t concurrency, const Clock& clock,
                                              schedule::TimerThread& timers,
                                              std::size_t takers = 1);

  // ---- any thread ------------------------------------------------------------------------------

  /// As Executor::submit(). The listener may hear the end before this returns.
  [[nodiscard]] std::optional<Refusal> submit(std::shared_ptr<GenerationRequest> request);

  /// Every submit is refused with kDraining from now on.
  void begin_drain();

  /// Every submit is refused, and not counted, from now on: the caller has another queue to go to.
  /// With `if_idle` only when no accepted request is unfinished; otherwise nothing happens and this
  /// is false. Pokes the takers, who may end once idle() is true.
  bool retire(bool if_idle);
  [[nodiscard]] bool retired() const;

  /// Whether every accepted request has ended.
  [[nodiscard]] bool idle() const { return idle_since().has_value(); }
  /// Since when that is so, at first since create(); unset while it is not.
  [[nodiscard]] std::optional<TimePoint> idle_since() const;
  /// Whether anything was ever accepted.
  [[nodiscard]] bool served() const;
  /// From now on taker 0 is poked whenever the last request has ended.
  void poke_when_idle();

  /// Waits until every accepted request has ended; false when `deadline` (real time) came first.
  [[nodiscard]] bool wait_idle(TimePoint deadline);

  /// As Executor::predicted_wait().
  [[nodiscard]] std::optional<Duration> predicted_wait(std::int32_t level) const;

  /// Until this is called, requests wait unprepared; `prepare` hears of those at once, on this
  /// thread. At most once. What the function owns goes after close(), with the last call of it.
  void prepare_with(Prepare prepare);

  /// Null when the request has left already.
  [[nodiscard]] std::shared_ptr<GenerationRequest> waiting(Ticket ticket);

  /// The request can be taken with these tokens, or ends with this error. Nothing happens when it
  /// has left already.
  void prepared(Ticket ticket, Result<std::vector<std::int32_t>> prompt);

  /// Whether there is something to take; until prepare_with(), whether something waits.
  [[nodiscard]] bool has_work() const;

  /// The level from which take() would give this taker the first request; unset: there is none, or
  /// it is somebody else's turn.
  [[nodiscard]] std::optional<std::int32_t> most_urgent(std::size_t taker = 0) const;

  /// Fills in what is known here: gauges and counters of requests, all but `running` and `resting`.
  void read(ModelInfo& info) const;

  /// Ends each taker's wait_for_work() or rest(), or its next one if there is none now.
  void poke();

  // ---- a taker's thread ------------------------------------------------------------------------

  /// Blocks until has_work() or poke(). What a taker does between two calls of this is its busy
  /// time. Precondition: nothing that it took is unsettled.
  void wait_for_work(std::size_t taker = 0);

  /// Blocks until poke(), until `longest` is over or, with `for_requests`, until has_work().
  void rest(Duration longest, bool for_requests, std::size_t taker = 0);

  /// At most `most` requests in their order, and no more than leaves the others their share.
  [[nodiscard]] std::vector<Taken> take(std::size_t most, std::size_t taker = 0);

  /// Requests that this taker took have ended: counts them, charges their tenants with what they
  /// were served, and tells the listeners.
  void settle(const std::vector<Outcome>& outcomes, std::size_t taker = 0);

  /// Ends whoever's deadline has passed. Done by the timer too.
  void expire();

  /// Ends all that wait with `error`; cancelled and expired ones with their own reason.
  void fail_waiting(const Error& error);

  /// Until `when`, submits are refused with kLoading and `why`.
  void refuse_until(TimePoint when, std::string why);
  /// No longer.
  void accept();

  /// Uses neither clock nor timers from now on, and has no end to tell any more. Precondition:
  /// everything taken is settled, nothing is submitted any more.
  void close();

 private:
  RequestQueue(schedule::QueueOptions options, std::size_t concurrency, const Clock& clock,
               schedule::TimerThread& timers, std::size_t takers);

  void cancelled(Ticket ticket);
  [[nodiscard]] std::optional<Refusal> refusal_locked(const GenerationRequest& request,
                                                      const schedule::QueueKey& key, TimePoint now);
  [[nodiscard]] std::optional<Refusal> hopeless_locked(const schedule::QueueKey& key,
                                                       TimePoint now) const;
  [[nodiscard]] Refusal full_locked(const schedule::QueueKey& key,
                                    schedule::QueueBound bound) const;
  /// Of a request that comes last of its level.
  [[nodiscard]] std::optional<Duration> expected_wait_locked(std::int32_t level) const;
  [[nodiscard]] bool has_work_locked() const;
  void arm_locked();
  void count_locked(const GenerationRequest& request, const Error* error, TimePoint now);
  /// Counts requests that never left the queue; their listeners are to be told, then finish().
  std::vector<Outcome> end_waiting_locked(std::vector<Waiting> ended, const Error& error,
                                          TimePoint now);
  /// Tells the listeners; not under the lock.
  void finish(const std::vector<Outcome>& outcomes);

  // Constant after construction.
  const std::size_t concurrency_;
  const Clock& clock_;
  schedule::TimerThread& timers_;

  mutable std::mutex mutex_;
  std::condition_variable idle_;  ///< wait_idle(): outstanding_ became 0
  // Guarded by mutex_.
  Queue queue_;
  std::shared_ptr<const Prepare> prepare_;  ///< null: not yet
  schedule::ServiceRate rate_;
  std::optional<schedule::TimerThread::Timer> timer_;  ///< armed for queue_.next_event()
  std::optional<TimePoint> refuse_until_;
  std::string refuse_why_;
  bool draining_ = false;
  bool retired_ = false;
  bool poke_when_idle_ = false;
  TimePoint idle_since_;  ///< when outstanding_ became 0 last
  RequestTakers takers_;
  bool closed_ = false;
  std::size_t outstanding_ = 0;  ///< accepted, and its listener has not heard the end
  // Cumulative.
  std::uint64_t accepted_ = 0;
  std::uint64_t completed_ = 0;
  std::uint64_t failed_ = 0;
  std::uint64_t cancelled_ = 0;
  std::uint64_t expired_ = 0;
  std::array<std::uint64_t, schedule::kRefusalReasons> refused_{};
  schedule::WaitHistogram queue_wait_;
};

}  // namespace weir::model
