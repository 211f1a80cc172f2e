// SPDX-License-Identifier: Apache-2.0
#include "agent/model/loaded_model.h"

#include <gtest/gtest.h>

namespace weir::model {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

TEST(DefaultThreads, GrowsWithTheFileUpToTheCpus) {
  EXPECT_EQ(default_threads(0, 8), 1U);
  EXPECT_EQ(default_threads(1 * kMiB, 8), 1U);
  EXPECT_EQ(default_threads(31 * kMiB, 8), 1U);
  EXPECT_EQ(default_threads(32 * kMiB, 8), 2U);
  EXPECT_EQ(default_threads(400 * kMiB, 8), 8U);
  EXPECT_EQ(default_threads(400 * kMiB, 1), 1U);
}

}  // namespace
}  // namespace weir::model
