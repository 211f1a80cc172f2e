// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/thread_slice.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <thread>

namespace weir::serve {
namespace {

SchedAttributes attributes_here() {
  auto found = sched_attributes();
  EXPECT_TRUE(found.ok());
  return found.ok() ? *found : SchedAttributes();
}

// What a thread has is seen by itself alone: each test has its own.
template <typename Test>
void on_a_thread(Test test) {
  std::jthread{test};
}

TEST(ThreadSlice, IsWhatWasAskedForAndAllElseStays) {
  on_a_thread([] {
    ASSERT_EQ(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 3), 0);
    const SchedAttributes before = attributes_here();
    const Status asked = ask_for_slice(kShortSlice);
    const SchedAttributes after = attributes_here();
    EXPECT_EQ(after.policy, before.policy);
    EXPECT_EQ(after.nice, 3);
    if (asked.ok()) {
      EXPECT_EQ(after.runtime_ns, 200'000U);
      EXPECT_NE(before.runtime_ns, after.runtime_ns);
    } else {
      EXPECT_EQ(asked.error().code, Code::kUnsupported) << asked.error().message;
      EXPECT_EQ(after.runtime_ns, before.runtime_ns) << "refused, and done nevertheless";
    }
  });
}

TEST(ThreadSlice, ThreadsStartedFromOneWithAShortSliceHaveTheDefault) {
  on_a_thread([] {
    const SchedAttributes before = attributes_here();
    const bool granted = ask_for_slice(kShortSlice).ok();
    EXPECT_EQ(attributes_here().runtime_ns != before.runtime_ns, granted);
    on_a_thread([&] {
      EXPECT_EQ(attributes_here().runtime_ns, before.runtime_ns);
      on_a_thread([&] { EXPECT_EQ(attributes_here().runtime_ns, before.runtime_ns); });
    });
  });
}

TEST(ThreadSlice, ThreadsThatOtherRulesHoldForAreLeftAlone) {
  on_a_thread([] {
    const sched_param none{};
    ASSERT_EQ(::sched_setscheduler(0, SCHED_IDLE, &none), 0);
    const Status asked = ask_for_slice(kShortSlice);
    ASSERT_FALSE(asked.ok());
    EXPECT_EQ(asked.error().code, Code::kUnsupported);
    EXPECT_EQ(attributes_here().policy, static_cast<std::uint32_t>(SCHED_IDLE));
  });
}

TEST(ThreadSlice, WhatTheKernelDoesNotGrantIsNoSuccess) {
  on_a_thread([] {
    // Linux grants 0.1..100 ms and rounds what is outside.
    const Status asked = ask_for_slice(std::chrono::nanoseconds(1));
    ASSERT_FALSE(asked.ok());
    EXPECT_EQ(asked.error().code, Code::kUnsupported);
  });
}

}  // namespace
}  // namespace weir::serve
