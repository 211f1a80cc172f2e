// SPDX-License-Identifier: Apache-2.0
//
// The policy of one route, with what its requests share: the retry budget, kept answers, counters;
// and what all routes share: models, clock, timers, health, and the requests that wait for their
// next attempt.
//
// Thread-safe. Both live as long as the last request that uses them; what SlaContext refers to must
// outlive every accepted request.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "agent/base/clock.h"
#include "agent/model/generation.h"
#include "agent/upstream/backoff.h"
#include "agent/upstream/health.h"
#include "agent/upstream/response_cache.h"
#include "agent/upstream/retry_budget.h"
#include "agent/upstream/sla_options.h"
#include "agent/upstream/sla_reading.h"
#include "agent/upstream/timers.h"

namespace weir::upstream {

/// A request between two attempts.
class Waiter {
 public:
  virtual ~Waiter() = default;
  virtual void resume() = 0;   ///< the time has come
  virtual void abandon() = 0;  ///< it will not come any more
};

class SlaContext : public std::enable_shared_from_this<SlaContext> {
 public:
  SlaContext(model::Executor& models_in, Timers& timers_in, const Clock& clock_in,
             std::uint64_t seed)
      : models(models_in), timers(timers_in), clock(clock_in), backoff(seed), health(clock_in) {}

  model::Executor& models;
  Timers& timers;
  const Clock& clock;
  Backoff backoff;
  HealthBoard health;

  /// Resumes `waiter` at `at`, and owns it until then. Unset: the policies are stopping, and the
  /// waiter is the caller's still.
  using WaitId = std::uint64_t;
  [[nodiscard]] std::optional<WaitId> wait(std::shared_ptr<Waiter> waiter, TimePoint at);
  /// Lets go of a waiter whose request has ended. To no effect once it resumes.
  void forget(WaitId id);

  /// Around whatever is submitted to `models` by others than their own callers. False: the policies
  /// are stopping and `models` may be gone; no leave() then.
  [[nodiscard]] bool enter();
  void leave();
  [[nodiscard]] bool stopping() const { return stopping_.load(std::memory_order_acquire); }

  /// Abandons whoever waits, and returns when no one uses `models` by enter() any more.
  void stop();

 private:
  struct Waiting {
    std::shared_ptr<Waiter> waiter;
    Timers::Id timer;
  };
  [[nodiscard]] std::shared_ptr<Waiter> take(WaitId id);

  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable left_;
  // Guarded by mutex_.
  std::map<WaitId, Waiting> waiting_;
  WaitId next_wait_ = 1;
  std::uint64_t inside_ = 0;
};

class RoutePolicy {
 public:
  using Counter = std::atomic<std::uint64_t>;

  RoutePolicy(SlaOptions options_in, const Clock& clock)
      : options(std::move(options_in)),
        budget(options.budget_percent, clock),
        cache(options.degrade ? options.degrade->cache_entries : 0,
              options.degrade ? options.degrade->cache_bytes : 0) {}

  const SlaOptions options;
  RetryBudget budget;
  ResponseCache cache;

  Counter requests{0};
  Counter retries{0};
  Counter over_budget{0};
  Counter adaptive_attempts{0};
  Counter adaptive_wins{0};
  Counter fast_fails{0};
  Counter backup_attempts{0};
  Counter probes{0};
  Counter degraded_cached{0};
  Counter degraded_default{0};

  [[nodiscard]] SlaRouteReading reading() const;
};

inline void count(RoutePolicy::Counter& counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}

/// Whom an attempt asks.
struct Target {
  std::string model;
  bool is_backup = false;
};

/// By the health of `model`, the model asked for, and of its backup: itself, or as a probe, or the
/// backup. Unset: neither may be asked now. Counts what it decides.
[[nodiscard]] std::optional<Target> choose_target(std::string_view model, RoutePolicy& policy,
                                                  HealthBoard& health);

/// The backup that stands in for `model`; empty: none. A model does not stand in for itself.
[[nodiscard]] std::string_view backup_of(std::string_view model, const SlaOptions& options);

}  // namespace weir::upstream
