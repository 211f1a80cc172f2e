// SPDX-License-Identifier: Apache-2.0
//
// An Executor of models with several backends each, in simulated time: they fail at random, die,
// refuse or hang while they are dead, and are taken out by a breaker such as the kernel's (three
// failures in a row, five seconds, then one trial).
//
// Thread-compatible: simulations have one thread. Clock and timers must outlive it.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/model/generation.h"
#include "tests/unit/upstream/simulated_timers.h"

namespace weir::upstream {

class Fleet final : public model::Executor {
 public:
  struct Options {
    double failing = 0.05;                             ///< share of attempts
    Duration service = std::chrono::milliseconds(50);  ///< mean, exponential
    double first_byte_at = 1;                          ///< share of the service time
    Duration hang_noticed = std::chrono::milliseconds(1000);
  };

  Fleet(Options options, std::map<std::string, std::size_t> backends, FakeClock& clock,
        SimulatedTimers& timers, unsigned seed)
      : options_(options), clock_(clock), timers_(timers), random_(seed) {
    for (const auto& [model, count] : backends) models_[model].resize(count);
  }

  /// Everything that it does ends at once, with an error or, if it hangs, only when that is
  /// noticed. Until revive(), new attempts go the same way.
  void kill(const std::string& model, std::size_t index, bool hangs) {
    Backend& backend = models_[model][index];
    backend.dead = true;
    backend.hangs = hangs;
    ++backend.life;
    if (hangs) {
      timers_.arm(clock_.now() + options_.hang_noticed, [this, model, index, life = backend.life] {
        Backend& later = models_[model][index];
        if (later.life == life) fail_all(later);
      });
    } else {
      fail_all(backend);
    }
  }
  void revive(const std::string& model, std::size_t index) {
    Backend& backend = models_[model][index];
    backend.dead = false;
    ++backend.life;
    fail_all(backend);  // what it had before is lost
  }
  [[nodiscard]] std::size_t under_way() const {
    std::size_t sum = 0;
    for (const auto& [name, backends] : models_) {
      for (const Backend& backend : backends) sum += backend.work.size();
    }
    return sum;
  }
  [[nodiscard]] std::uint64_t attempts() const { return attempts_; }

  std::optional<model::Refusal> submit(std::string_view model,
                                       std::shared_ptr<model::GenerationRequest> request) override {
    ++attempts_;
    if (request->cancelled.load()) {
      return model::Refusal{model::RefusalReason::kCancelled, "cancelled", std::nullopt};
    }
    Backend* const backend = pick(models_.find(model)->second);
    if (backend == nullptr) {
      return model::Refusal{model::RefusalReason::kBreakerOpen, "no backend", std::nullopt};
    }
    const std::uint64_t number = next_++;
    backend->work.emplace(number, request);
    request->set_canceller([this, backend, number] {
      // The engine ends it at its next step.
      timers_.arm(clock_.now() + std::chrono::milliseconds(1),
                  [this, backend, number] { end(*backend, number, Code::kCancelled); });
    });
    if (backend->dead) {
      if (!backend->hangs || backend->noticed) {
        later(*backend, number, std::chrono::milliseconds(1), Code::kUnavailable);
      }
      return std::nullopt;
    }
    const double mean = std::chrono::duration<double>(options_.service).count();
    const auto takes = std::chrono::duration_cast<Duration>(
        std::chrono::duration<double>(std::exponential_distribution(1 / mean)(random_)));
    if (std::bernoulli_distribution(options_.failing)(random_)) {
      later(*backend, number, takes, Code::kUnavailable);
      return std::nullopt;
    }
    const auto first = std::chrono::duration_cast<Duration>(takes * options_.first_byte_at);
    if (first < takes)
      at(*backend, number, first, [](auto& work) { work->listener->on_text("a"); });
    later(*backend, number, takes, std::nullopt);
    return std::nullopt;
  }
  bool has_model(std::string_view model) const override { return models_.contains(model); }
  std::vector<model::ModelInfo> models() const override { return {}; }

 private:
  struct Backend {
    bool dead = false;
    bool hangs = false;
    bool noticed = false;  ///< that it hangs
    std::uint64_t life = 0;
    int failures = 0;  ///< in a row
    std::optional<TimePoint> open_until;
    std::map<std::uint64_t, std::shared_ptr<model::GenerationRequest>> work;
  };

  Backend* pick(std::vector<Backend>& backends) {
    std::vector<Backend*> usable;
    for (Backend& backend : backends) {
      if (!backend.open_until || clock_.now() >= *backend.open_until) usable.push_back(&backend);
    }
    if (usable.empty()) return nullptr;
    Backend* const picked = usable[random_() % usable.size()];
    // A trial: the next one only when it has told.
    if (picked->open_until) picked->open_until = clock_.now() + kOpen;
    return picked;
  }

  template <typename Action>
  void at(Backend& backend, std::uint64_t number, Duration in, Action action) {
    timers_.arm(clock_.now() + in, [&backend, number, action, life = backend.life] {
      if (backend.life != life) return;
      if (const auto work = backend.work.find(number); work != backend.work.end()) {
        const auto request = work->second;
        action(request);
      }
    });
  }
  void later(Backend& backend, std::uint64_t number, Duration in, std::optional<Code> failure) {
    at(backend, number, in,
       [this, &backend, number, failure](auto&) { end(backend, number, failure); });
  }

  void end(Backend& backend, std::uint64_t number, std::optional<Code> failure) {
    const auto work = backend.work.extract(number);
    if (work.empty()) return;
    const auto& request = work.mapped();
    if (failure) {
      if (*failure != Code::kCancelled && ++backend.failures >= 3) {
        backend.open_until = clock_.now() + kOpen;
      }
      request->listener->on_error(make_error(*failure, "simulated"));
      return;
    }
    backend.failures = 0;
    backend.open_until.reset();
    request->listener->on_text("b");
    request->listener->on_complete({});
  }

  void fail_all(Backend& backend) {
    backend.noticed = backend.dead;
    while (!backend.work.empty()) end(backend, backend.work.begin()->first, Code::kUnavailable);
  }

  static constexpr std::chrono::seconds kOpen{5};

  const Options options_;
  FakeClock& clock_;
  SimulatedTimers& timers_;
  std::mt19937 random_;
  std::map<std::string, std::vector<Backend>, std::less<>> models_;
  std::uint64_t next_ = 0;
  std::uint64_t attempts_ = 0;
};

}  // namespace weir::upstream
