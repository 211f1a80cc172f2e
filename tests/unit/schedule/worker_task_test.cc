// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <type_traits>
#include <utility>

#include "agent/schedule/task.h"

namespace weir::schedule {
namespace {

TEST(Task, RunsAMoveOnlyCallableAndDestroysItOnce) {
  auto shared = std::make_shared<int>(0);
  Task task([held = shared, only = std::make_unique<int>(3)] { *held += *only; });
  EXPECT_EQ(shared.use_count(), 2);
  Task moved(std::move(task));
  EXPECT_FALSE(task);  // NOLINT(bugprone-use-after-move): empty is what it promises
  ASSERT_TRUE(moved);
  std::move(moved)();
  EXPECT_EQ(*shared, 3);
  EXPECT_EQ(shared.use_count(), 1);
  EXPECT_FALSE(moved);
}

TEST(Task, DestroysACallableThatNeverRan) {
  auto shared = std::make_shared<int>(0);
  {
    Task task([shared] {});
    EXPECT_EQ(shared.use_count(), 2);
    task = Task([] {});
    EXPECT_EQ(shared.use_count(), 1);
  }
  EXPECT_EQ(shared.use_count(), 1);
}

TEST(Task, CarriesEveryByteOfALargeCallable) {
  static_assert(!std::is_copy_constructible_v<Task>);
  std::array<unsigned char, Task::kCapacityBytes - sizeof(void*)> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<unsigned char>(i + 1);
  }
  unsigned sum = 0;
  Task task([bytes, &sum] {
    for (const unsigned char byte : bytes) {
      sum += byte;
    }
  });
  Task moved;
  moved = std::move(task);
  std::move(moved)();
  EXPECT_EQ(sum, 48U * 49U / 2U);
}

TEST(Task, TakesABoxedCallableOfAnySize) {
  std::array<unsigned char, 4 * Task::kCapacityBytes> bytes{};
  bytes.back() = 7;
  auto shared = std::make_shared<unsigned>(0);
  Task task = Task::boxed([bytes, held = shared] { *held += bytes.back(); });
  std::move(task)();
  EXPECT_EQ(*shared, 7U);
  EXPECT_EQ(shared.use_count(), 1);
  task = Task::boxed([held = shared] {});
  task = Task();
  EXPECT_EQ(shared.use_count(), 1);
}

TEST(Task, MayReplaceItselfWhileItRuns) {
  int ran = 0;
  Task task;
  task = Task([&] {
    ++ran;
    // The callable that runs is not the task's any more.
    EXPECT_FALSE(task);
  });
  std::move(task)();
  EXPECT_EQ(ran, 1);
}

}  // namespace
}  // namespace weir::schedule
