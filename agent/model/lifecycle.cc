// SPDX-License-Identifier: Apache-2.0
#include "agent/model/lifecycle.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir::model {

namespace {

std::chrono::seconds whole_seconds(Duration left) {
  return std::max(std::chrono::seconds(1), std::chrono::ceil<std::chrono::seconds>(left));
}

}  // namespace

std::optional<Refusal> Lifecycle::request(TimePoint now, Action& action) {
  action = Action::kNone;
  if (disabled_) {
    return Refusal{RefusalReason::kDraining,
                   fmt::format("the model was unloaded; POST /v2/repository/models/{}/load loads "
                               "it again",
                               options_.name),
                   std::nullopt};
  }
  switch (state_) {
    case State::kLoading:
    case State::kWarming:
    case State::kReady:
      return std::nullopt;
    case State::kFailed:
      if (retry_at_ && now < *retry_at_) {
        return Refusal{RefusalReason::kLoading, "the model could not be loaded: " + failure_,
                       whole_seconds(*retry_at_ - now)};
      }
      break;
    case State::kUnloaded:
    case State::kDraining:
      if (no_memory_until_ && now < *no_memory_until_) {
        return Refusal{RefusalReason::kMemory, "the model could not be loaded: " + failure_,
                       whole_seconds(*no_memory_until_ - now)};
      }
      break;
  }
  action = start();
  return std::nullopt;
}

Lifecycle::Action Lifecycle::start() {
  state_ = State::kLoading;
  progress_ = 0;
  failure_.clear();
  retry_at_.reset();
  no_memory_until_.reset();
  return Action::kStart;
}

Lifecycle::Action Lifecycle::load(bool changed) {
  disabled_ = false;
  switch (state_) {
    case State::kUnloaded:
    case State::kFailed:
    case State::kDraining:
      return start();
    case State::kLoading:
    case State::kWarming:
      return Action::kNone;
    case State::kReady:
      break;
  }
  if (!changed || successor_) return Action::kNone;
  successor_ = true;
  successor_progress_ = 0;
  successor_failure_.clear();
  return Action::kStartSuccessor;
}

Lifecycle::Action Lifecycle::unload() {
  disabled_ = true;
  successor_ = false;
  switch (state_) {
    case State::kUnloaded:
    case State::kDraining:
      return Action::kNone;
    case State::kFailed:
      state_ = State::kUnloaded;
      failure_.clear();
      return Action::kNone;
    case State::kLoading:
    case State::kWarming:
    case State::kReady:
      break;
  }
  state_ = State::kDraining;
  return Action::kDrain;
}

Lifecycle::Action Lifecycle::tick(TimePoint now, std::optional<TimePoint> idle_since, bool served) {
  const auto due = next_tick(idle_since, served);
  if (!due || now < *due) return Action::kNone;
  return state_ == State::kReady ? Action::kRetireIfIdle : start();
}

std::optional<TimePoint> Lifecycle::next_tick(std::optional<TimePoint> idle_since,
                                              bool served) const {
  if (state_ == State::kFailed && options_.wanted && !disabled_) return retry_at_;
  if (state_ != State::kReady || successor_ || !options_.keep_alive || !idle_since) {
    return std::nullopt;
  }
  // What was loaded ahead of its first request stays for that one.
  if (*options_.keep_alive == Duration::zero() && !served) return std::nullopt;
  return *idle_since + *options_.keep_alive;
}

void Lifecycle::progressed(float progress) {
  float& of = successor_ ? successor_progress_ : progress_;
  of = std::clamp(progress, 0.0F, 1.0F);
}

void Lifecycle::loaded() {
  progressed(1);
  if (!successor_ && state_ == State::kLoading) state_ = State::kWarming;
}

Lifecycle::Action Lifecycle::warmed() {
  backoff_ = kFirstBackoff;
  if (successor_) {
    successor_ = false;
    return Action::kSwap;
  }
  if (state_ == State::kLoading || state_ == State::kWarming) state_ = State::kReady;
  return Action::kNone;
}

void Lifecycle::failed(TimePoint now, std::string why) {
  if (successor_) {
    successor_ = false;
    successor_failure_ = std::move(why);
    return;
  }
  state_ = State::kFailed;
  failure_ = std::move(why);
  retry_at_ = now + backoff_;
  backoff_ = std::min(backoff_ * 2, kLongestBackoff);
}

void Lifecycle::no_memory(TimePoint now, std::string why) {
  if (successor_) return failed(now, std::move(why));
  state_ = State::kUnloaded;
  progress_ = 0;
  failure_ = std::move(why);
  no_memory_until_ = now + kMemoryBackoff;
}

void Lifecycle::unloaded() {
  state_ = State::kUnloaded;
  progress_ = 0;
}

void Lifecycle::drained() {
  if (state_ == State::kDraining) unloaded();
}

}  // namespace weir::model
