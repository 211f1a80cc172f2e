// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a model, event by event, in a time that the test tells.
#include "agent/model/lifecycle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weir::model {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using Action = Lifecycle::Action;
using State = ModelInfo::State;

constexpr TimePoint kStart{std::chrono::hours(1)};

struct Model : Lifecycle {
  explicit Model(LifecycleOptions options = {.name = "m", .keep_alive = {}})
      : Lifecycle(std::move(options)) {}

  Action asked_at(TimePoint now) {
    auto action = Action::kNone;
    EXPECT_FALSE(request(now, action));
    return action;
  }
  Refusal refused_at(TimePoint now) {
    auto action = Action::kSwap;
    const auto refusal = request(now, action);
    EXPECT_TRUE(refusal);
    EXPECT_EQ(action, Action::kNone);
    return refusal.value_or(Refusal{});
  }
  void make_ready() {
    EXPECT_EQ(load(false), Action::kStart);
    loaded();
    EXPECT_EQ(warmed(), Action::kNone);
    EXPECT_EQ(state(), State::kReady);
  }
};

TEST(ModelLifecycle, FirstRequestLoadsAndTheOthersWait) {
  Model model;
  EXPECT_EQ(model.state(), State::kUnloaded);
  EXPECT_EQ(model.asked_at(kStart), Action::kStart);
  EXPECT_EQ(model.state(), State::kLoading);
  model.progressed(0.5F);
  EXPECT_EQ(model.progress(), 0.5F);
  EXPECT_EQ(model.asked_at(kStart), Action::kNone);
  model.loaded();
  EXPECT_EQ(model.state(), State::kWarming);
  EXPECT_EQ(model.progress(), 1.0F);
  EXPECT_EQ(model.asked_at(kStart), Action::kNone);
  EXPECT_EQ(model.warmed(), Action::kNone);
  EXPECT_EQ(model.state(), State::kReady);
  EXPECT_EQ(model.load(false), Action::kNone);
}

TEST(ModelLifecycle, FailedLoadBacksOffTwiceAsLongEachTimeUpToAMinute) {
  Model model;
  TimePoint now = kStart;
  for (const int backoff_s : {5, 10, 20, 40, 60, 60}) {
    EXPECT_EQ(model.asked_at(now), Action::kStart);
    EXPECT_EQ(model.failure(), "");
    model.failed(now, "torn");
    EXPECT_EQ(model.state(), State::kFailed);
    const Refusal refusal = model.refused_at(now + seconds(backoff_s) - milliseconds(1));
    EXPECT_EQ(refusal.reason, RefusalReason::kLoading);
    EXPECT_EQ(refusal.retry_after, seconds(1));
    EXPECT_THAT(refusal.message, HasSubstr("torn"));
    now += seconds(backoff_s);
  }
  EXPECT_EQ(model.asked_at(now), Action::kStart);
  model.loaded();
  (void)model.warmed();
  model.unloaded();
  EXPECT_EQ(model.asked_at(now), Action::kStart);
  model.failed(now, "again");
  EXPECT_EQ(model.refused_at(now).retry_after, seconds(5));  // it had worked in between
}

TEST(ModelLifecycle, WhatIsToldToLoadDoesNotWaitForTheBackoff) {
  Model model;
  EXPECT_EQ(model.asked_at(kStart), Action::kStart);
  model.failed(kStart, "torn");
  EXPECT_EQ(model.load(false), Action::kStart);
  EXPECT_EQ(model.state(), State::kLoading);
}

TEST(ModelLifecycle, OnlyAWantedModelIsTriedAgainUnasked) {
  for (const bool wanted : {false, true}) {
    Model model({.name = "m", .keep_alive = {}, .wanted = wanted});
    EXPECT_EQ(model.asked_at(kStart), Action::kStart);
    model.failed(kStart, "torn");
    EXPECT_EQ(model.next_tick({}, false).has_value(), wanted);
    EXPECT_EQ(model.tick(kStart + seconds(4), {}, false), Action::kNone);
    EXPECT_EQ(model.tick(kStart + seconds(5), {}, false), wanted ? Action::kStart : Action::kNone);
  }
}

TEST(ModelLifecycle, IdleModelIsUnloadedAfterKeepAlive) {
  Model model({.name = "m", .keep_alive = seconds(30)});
  model.make_ready();
  EXPECT_EQ(model.next_tick({}, true), std::nullopt);  // it has requests
  EXPECT_EQ(model.tick(kStart + seconds(100), {}, true), Action::kNone);
  EXPECT_EQ(model.next_tick(kStart, true), kStart + seconds(30));
  EXPECT_EQ(model.tick(kStart + seconds(30) - milliseconds(1), kStart, true), Action::kNone);
  EXPECT_EQ(model.tick(kStart + seconds(30), kStart, true), Action::kRetireIfIdle);
  EXPECT_EQ(model.state(), State::kReady);  // until it was really idle
  model.unloaded();
  EXPECT_EQ(model.state(), State::kUnloaded);
  EXPECT_EQ(model.asked_at(kStart + seconds(31)), Action::kStart);
}

TEST(ModelLifecycle, KeepAliveOfZeroUnloadsAfterARequestButNotBefore) {
  Model model({.name = "m", .keep_alive = Duration::zero()});
  model.make_ready();
  EXPECT_EQ(model.tick(kStart + seconds(60), kStart, false), Action::kNone);
  EXPECT_EQ(model.tick(kStart, kStart, true), Action::kRetireIfIdle);
}

TEST(ModelLifecycle, WithoutKeepAliveItStays) {
  Model model;
  model.make_ready();
  EXPECT_EQ(model.next_tick(kStart, true), std::nullopt);
  EXPECT_EQ(model.tick(kStart + std::chrono::hours(1000), kStart, true), Action::kNone);
}

TEST(ModelLifecycle, ExplicitlyUnloadedRefusesUntilItIsLoadedAgain) {
  Model model;
  model.make_ready();
  EXPECT_EQ(model.unload(), Action::kDrain);
  EXPECT_EQ(model.state(), State::kDraining);
  EXPECT_THAT(model.refused_at(kStart).message, HasSubstr("/v2/repository/models/m/load"));
  EXPECT_EQ(model.unload(), Action::kNone);
  model.drained();
  EXPECT_EQ(model.state(), State::kUnloaded);
  EXPECT_EQ(model.refused_at(kStart).reason, RefusalReason::kDraining);
  EXPECT_EQ(model.load(false), Action::kStart);
  EXPECT_EQ(model.asked_at(kStart), Action::kNone);
  model.drained();  // of the version before
  EXPECT_EQ(model.state(), State::kLoading);
}

TEST(ModelLifecycle, MayBeLoadedAgainWhileItDrains) {
  Model model;
  model.make_ready();
  EXPECT_EQ(model.unload(), Action::kDrain);
  EXPECT_EQ(model.load(false), Action::kStart);
  EXPECT_FALSE(model.disabled());
  EXPECT_EQ(model.state(), State::kLoading);
}

TEST(ModelLifecycle, WithoutMemoryItRefusesForASecondAndHasNotFailed) {
  Model model;
  EXPECT_EQ(model.asked_at(kStart), Action::kStart);
  model.no_memory(kStart, "too few are idle");
  EXPECT_EQ(model.state(), State::kUnloaded);
  const Refusal refusal = model.refused_at(kStart + milliseconds(999));
  EXPECT_EQ(refusal.reason, RefusalReason::kMemory);
  EXPECT_EQ(refusal.retry_after, seconds(1));
  EXPECT_EQ(model.asked_at(kStart + seconds(1)), Action::kStart);
}

TEST(ModelLifecycle, SuccessorTakesOverWhenItIsReady) {
  Model model({.name = "m", .keep_alive = seconds(1)});
  model.make_ready();
  EXPECT_EQ(model.load(true), Action::kStartSuccessor);
  EXPECT_EQ(model.load(true), Action::kNone);
  EXPECT_EQ(model.state(), State::kReady);
  EXPECT_EQ(model.asked_at(kStart), Action::kNone);
  EXPECT_FALSE(model.evictable());
  EXPECT_EQ(model.tick(kStart + seconds(9), kStart, true), Action::kNone);
  model.progressed(0.25F);
  EXPECT_EQ(model.successor_progress(), 0.25F);
  EXPECT_EQ(model.progress(), 1.0F);
  model.loaded();
  EXPECT_EQ(model.state(), State::kReady);
  EXPECT_EQ(model.warmed(), Action::kSwap);
  EXPECT_FALSE(model.has_successor());
  EXPECT_TRUE(model.evictable());
}

TEST(ModelLifecycle, FailedSuccessorLeavesTheModelAsItWas) {
  Model model;
  model.make_ready();
  EXPECT_EQ(model.load(true), Action::kStartSuccessor);
  model.failed(kStart, "torn");
  EXPECT_EQ(model.state(), State::kReady);
  EXPECT_EQ(model.failure(), "");
  EXPECT_EQ(model.successor_failure(), "torn");
  EXPECT_EQ(model.asked_at(kStart), Action::kNone);
  EXPECT_EQ(model.load(true), Action::kStartSuccessor);
  EXPECT_EQ(model.successor_failure(), "");
  model.no_memory(kStart, "full");
  EXPECT_EQ(model.state(), State::kReady);
  EXPECT_EQ(model.successor_failure(), "full");
}

TEST(ModelLifecycle, UnloadTakesTheSuccessorAlong) {
  Model model;
  model.make_ready();
  EXPECT_EQ(model.load(true), Action::kStartSuccessor);
  EXPECT_EQ(model.unload(), Action::kDrain);
  EXPECT_FALSE(model.has_successor());
}

}  // namespace
}  // namespace weir::model
