// SPDX-License-Identifier: Apache-2.0
#include "agent/base/descriptor_limit.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace weir {
namespace {

TEST(DescriptorLimit, IsRaisedAsFarAsItMayBeAndNeverLowered) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_GT(before.rlim_max, 300U);
  const rlimit low{.rlim_cur = 200, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  const auto raised = [](std::uint64_t wanted) {
    const auto told = raise_descriptor_limit(wanted);
    EXPECT_TRUE(told);
    rlimit now{};
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &now), 0);
    EXPECT_EQ(*told, now.rlim_cur);
    return now.rlim_cur;
  };
  EXPECT_EQ(raised(100), 200U);
  EXPECT_EQ(raised(300), 300U);
  EXPECT_EQ(raised(200), 300U);
  if (before.rlim_max != RLIM_INFINITY) {
    EXPECT_EQ(raised(std::uint64_t{before.rlim_max} + 1), before.rlim_max);
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace weir
