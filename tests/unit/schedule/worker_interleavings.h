// SPDX-License-Identifier: Apache-2.0
//
// A small model checker: runs a few threads that share atomics through every order in which their
// steps can happen, and knows when two accesses to plain memory race.
//
// Threads are fibers. Each halts before every step (an access to an Atomic, a Mutex, a Parker), and
// the explorer decides whose step is next. It runs the scenario again and again, depth first, until
// every decision has been taken in every way; orders that differ only in steps that do not depend
// on each other are explored once (sleep sets, Godefroid 1996). A scenario that needs more runs or
// steps than its limits fails: nothing is cut off silently.
//
// Memory. Values are sequentially consistent; with `store_buffers`, stores weaker than
// sequentially consistent wait in a buffer of their thread, first in, first out, and become visible
// by a step of their own (x86-TSO). What happens before what follows from the orders that the code
// names: release and acquire, release sequences, by vector clocks as in ThreadSanitizer. So a plain
// access that is ordered by luck is found, also where x86 would forgive it. Fences order values
// only.
//
// Threads of a scenario own nothing: those that wait for ever are never unwound.
//
// Not thread-safe: one exploration at a time, in one system thread. Not under ThreadSanitizer: it
// has nothing to see in one thread, and follows no fibers.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/base/clock.h"

namespace weir::schedule::model {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kCanExplore = false;
#else
inline constexpr bool kCanExplore = true;
#endif

inline constexpr std::size_t kMostThreads = 4;
using VectorClock = std::array<std::uint32_t, kMostThreads>;

inline void join(VectorClock& into, const VectorClock& other) {
  for (std::size_t i = 0; i < kMostThreads; ++i) {
    into[i] = std::max(into[i], other[i]);
  }
}

/// What a thread is about to do; says what depends on what.
struct Step {
  const void* where = nullptr;  ///< null: depends on everything
  bool writes = true;
  std::function<bool()> enabled;  ///< unset: always

  [[nodiscard]] bool depends_on(const Step& other) const {
    return where == nullptr || other.where == nullptr ||
           (where == other.where && (writes || other.writes));
  }
};

struct Limits {
  std::size_t runs_max = 1'000'000;
  std::size_t steps_max = 300;  ///< of one run
  bool store_buffers = false;
};

struct Outcome {
  std::size_t runs = 0;
  std::string failure;  ///< empty: none
};

/// What one run consists of; made anew for each.
struct Scenario {
  std::vector<std::function<void()>> threads;
  /// When every thread has ended or waits for ever; says what is wrong, or nothing.
  std::function<std::string()> check;
};

class Explorer {
 public:
  [[nodiscard]] static Outcome explore(const std::function<Scenario()>& make, Limits limits = {}) {
    Explorer explorer(limits);
    current_ = &explorer;
    explorer.explore_all(make);
    current_ = nullptr;
    return {explorer.runs_, explorer.failure_};
  }

  /// Null outside of a scenario's threads: there, accesses are no steps.
  [[nodiscard]] static Explorer* inside() {
    return current_ != nullptr && current_->in_fiber_ ? current_ : nullptr;
  }

  /// From a scenario's thread: halts until it is its turn to take this step.
  void halt(Step step) {
    Fiber& fiber = *fibers_[running_];
    fiber.step = std::move(step);
    in_fiber_ = false;
    ::swapcontext(&fiber.context, &main_);
    in_fiber_ = true;
  }

  void fail(const std::string& why) {
    if (failure_.empty()) {
      failure_ = why;
    }
  }

  [[nodiscard]] VectorClock& clock() { return fibers_[running_]->clock; }
  /// What the thread does next is not covered by what it has published so far.
  void tick() { ++clock()[running_]; }

  /// An access to plain memory by the running thread.
  void access(const void* where, bool writes) {
    Shadow& shadow = shadows_[where];
    const VectorClock& now = clock();
    for (std::size_t i = 0; i < kMostThreads; ++i) {
      if (shadow.writes[i] > now[i] || (writes && shadow.reads[i] > now[i])) {
        fail("data race");
      }
    }
    (writes ? shadow.writes : shadow.reads)[running_] = now[running_];
  }

  // ---- store buffers ---------------------------------------------------------------------------

  struct Buffered {
    const void* where;
    std::function<void()> make_visible;
    std::uint64_t value;
  };
  [[nodiscard]] bool buffers_stores() const { return limits_.store_buffers; }
  [[nodiscard]] std::deque<Buffered>& buffer() { return fibers_[running_]->buffer; }
  /// Goes on when all stores of the running thread are visible.
  void drain() {
    std::deque<Buffered>& own = buffer();
    if (!own.empty()) {
      halt({&own, true, [&own] { return own.empty(); }});
    }
  }

 private:
  static constexpr std::size_t kStackBytes = 64 * 1024;

  struct Fiber {
    ucontext_t context{};
    std::function<void()> body;
    std::optional<Step> step;  ///< unset: ended
    VectorClock clock{};
    std::deque<Buffered> buffer;
  };
  struct Shadow {
    VectorClock writes{};
    VectorClock reads{};
  };
  /// Who can take a step: actors 0..n-1 are the threads, n..2n-1 their store buffers.
  struct Enabled {
    std::size_t actor;
    Step step;
  };
  /// One decision.
  struct Node {
    std::vector<std::size_t> enabled;
    std::vector<std::size_t> sleep;  ///< need not be chosen here: explored already
    std::size_t chosen = 0;
  };

  explicit Explorer(Limits limits) : limits_(limits) {
    for (std::size_t i = 0; i < kMostThreads; ++i) {
      stacks_.push_back(std::make_unique<std::byte[]>(kStackBytes));
    }
  }

  static void enter() {
    Explorer& self = *current_;
    self.in_fiber_ = true;
    self.fibers_[self.running_]->body();
    self.in_fiber_ = false;
    Fiber& fiber = *self.fibers_[self.running_];
    fiber.step.reset();
    ::swapcontext(&fiber.context, &self.main_);
  }

  void resume(std::size_t thread) {
    running_ = thread;
    ::swapcontext(&main_, &fibers_[thread]->context);
  }

  void start(const Scenario& scenario) {
    fibers_.clear();
    shadows_.clear();
    for (std::size_t i = 0; i < scenario.threads.size(); ++i) {
      auto fiber = std::make_unique<Fiber>();
      fiber->body = scenario.threads[i];
      fiber->clock[i] = 1;
      ::getcontext(&fiber->context);
      fiber->context.uc_stack.ss_sp = stacks_[i].get();
      fiber->context.uc_stack.ss_size = kStackBytes;
      ::makecontext(&fiber->context, &Explorer::enter, 0);
      fibers_.push_back(std::move(fiber));
    }
    // Before its first step a thread shares nothing.
    for (std::size_t i = 0; i < fibers_.size(); ++i) {
      resume(i);
    }
  }

  [[nodiscard]] std::vector<Enabled> enabled() const {
    std::vector<Enabled> found;
    for (std::size_t i = 0; i < fibers_.size(); ++i) {
      const Fiber& fiber = *fibers_[i];
      if (fiber.step && (!fiber.step->enabled || fiber.step->enabled())) {
        found.push_back({i, *fiber.step});
      }
      if (!fiber.buffer.empty()) {
        found.push_back({i + fibers_.size(), {fiber.buffer.front().where, true, {}}});
      }
    }
    return found;
  }

  void take(std::size_t actor) {
    if (actor < fibers_.size()) {
      resume(actor);
      return;
    }
    auto& buffer = fibers_[actor - fibers_.size()]->buffer;
    buffer.front().make_visible();
    buffer.pop_front();
  }

  [[nodiscard]] bool depend(const Enabled& a, const Enabled& b) const {
    const std::size_t thread = a.actor % fibers_.size();
    if (thread == b.actor % fibers_.size() && a.actor != b.actor) {
      // A thread and its own buffer meet at the thread's drain() only: reading what it has stored,
      // it reads the same before and after.
      return (a.actor < b.actor ? a.step : b.step).where == &fibers_[thread]->buffer;
    }
    return a.actor == b.actor || a.step.depends_on(b.step);
  }

  [[nodiscard]] static bool choose(Node& node) {
    for (const std::size_t actor : node.enabled) {
      if (std::find(node.sleep.begin(), node.sleep.end(), actor) == node.sleep.end()) {
        node.chosen = actor;
        return true;
      }
    }
    return false;
  }

  /// Takes the decisions of `path`, then new ones, which it appends.
  void run_once(const Scenario& scenario, std::vector<Node>& path) {
    start(scenario);
    std::vector<std::size_t> sleep;  ///< at the next decision
    bool redundant = false;          ///< every order from here on has been explored
    for (std::size_t depth = 0;; ++depth) {
      const std::vector<Enabled> now = enabled();
      if (now.empty() || !failure_.empty()) {
        break;
      }
      if (depth == limits_.steps_max) {
        fail("more than " + std::to_string(limits_.steps_max) + " steps");
        break;
      }
      if (depth == path.size() && !redundant) {
        Node node;
        for (const Enabled& one : now) {
          node.enabled.push_back(one.actor);
        }
        node.sleep = sleep;
        redundant = !choose(node);
        if (!redundant) {
          path.push_back(std::move(node));
        }
      }
      if (redundant) {
        take(now.front().actor);  // only so that the threads end
        continue;
      }
      const Node& node = path[depth];
      const auto chosen = std::find_if(
          now.begin(), now.end(), [&](const Enabled& one) { return one.actor == node.chosen; });
      sleep.clear();
      for (const Enabled& one : now) {
        const bool asleep =
            std::find(node.sleep.begin(), node.sleep.end(), one.actor) != node.sleep.end();
        if (asleep && !depend(one, *chosen)) {
          sleep.push_back(one.actor);
        }
      }
      take(node.chosen);
    }
    if (failure_.empty()) {
      fail(scenario.check());
    }
  }

  void explore_all(const std::function<Scenario()>& make) {
    std::vector<Node> path;
    do {
      if (++runs_ > limits_.runs_max) {
        fail("more than " + std::to_string(limits_.runs_max) + " runs");
        return;
      }
      run_once(make(), path);
      if (!failure_.empty()) {
        std::string order;
        for (const Node& node : path) {
          order += " " + std::to_string(node.chosen);
        }
        failure_ += "; after the steps of" + order;
        return;
      }
      // The deepest decision that can be taken otherwise.
      while (!path.empty()) {
        path.back().sleep.push_back(path.back().chosen);
        if (choose(path.back())) {
          break;
        }
        path.pop_back();
      }
    } while (!path.empty());
  }

  inline static Explorer* current_ = nullptr;
  const Limits limits_;
  std::vector<std::unique_ptr<std::byte[]>> stacks_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::map<const void*, Shadow> shadows_;
  ucontext_t main_{};
  std::size_t running_ = 0;
  bool in_fiber_ = false;
  std::size_t runs_ = 0;
  std::string failure_;
};

}  // namespace weir::schedule::model
