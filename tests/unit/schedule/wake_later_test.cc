// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/wake_later.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace weir::schedule {
namespace {

TEST(WakeLater, WakesAtOnceWhereNothingIsPutOff) {
  int woken = 0;
  WakeLater::wake([&] { ++woken; });
  EXPECT_EQ(woken, 1);
}

TEST(WakeLater, PutsOffWhileItLivesAndOnItsOwnThreadAlone) {
  int woken = 0;
  std::vector<WakeLater::Wake> put_off;
  {
    const WakeLater later([&](WakeLater::Wake wake) { put_off.push_back(std::move(wake)); });
    WakeLater::wake([&] { ++woken; });
    EXPECT_EQ(woken, 0);
    std::jthread([&] { WakeLater::wake([&] { woken += 10; }); }).join();
    EXPECT_EQ(woken, 10);
  }
  WakeLater::wake([&] { woken += 100; });
  EXPECT_EQ(woken, 110);
  ASSERT_EQ(put_off.size(), 1U);
  put_off.front()();
  EXPECT_EQ(woken, 111);
}

}  // namespace
}  // namespace weir::schedule
