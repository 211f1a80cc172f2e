// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/housekeeping.h"

#include <gtest/gtest.h>

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

class HousekeepingTest : public testing::Test {
 protected:
  Status tick(Duration after_start) { return housekeeping_.tick(start_ + after_start); }

  int adoptions_ = 0;
  int censuses_ = 0;
  std::optional<Error> adopt_error_;
  std::optional<Error> census_error_;
  const TimePoint start_{1h};
  Housekeeping housekeeping_{{[this](TimePoint) -> Status {
                                ++adoptions_;
                                if (adopt_error_) return *adopt_error_;
                                return {};
                              },
                              [this](TimePoint) -> Status {
                                ++censuses_;
                                if (census_error_) return *census_error_;
                                return {};
                              }},
                             start_};
};

TEST_F(HousekeepingTest, AdoptsAtOnceAndCountsAfterASecond) {
  EXPECT_TRUE(tick(0s).ok());
  EXPECT_EQ(adoptions_, 1);
  EXPECT_EQ(censuses_, 0);
  EXPECT_TRUE(tick(999ms).ok());
  EXPECT_EQ(adoptions_, 1);
  EXPECT_EQ(censuses_, 0);
  EXPECT_TRUE(tick(1s).ok());
  EXPECT_EQ(adoptions_, 2);
  EXPECT_EQ(censuses_, 1);
}

TEST_F(HousekeepingTest, CountsEveryFiveSeconds) {
  for (int tenths = 0; tenths < 300; ++tenths) EXPECT_TRUE(tick(tenths * 100ms).ok());
  EXPECT_EQ(censuses_, 6);  // at 1, 6, 11, 16, 21, 26 s
  EXPECT_EQ(adoptions_, 7);
}

TEST_F(HousekeepingTest, DoesNotCatchUpAfterAPause) {
  EXPECT_TRUE(tick(100s).ok());
  EXPECT_TRUE(tick(104s).ok());
  EXPECT_EQ(censuses_, 1);
  EXPECT_TRUE(tick(105s).ok());
  EXPECT_EQ(censuses_, 2);
}

TEST_F(HousekeepingTest, ReportsAFailureAndGoesOn) {
  adopt_error_ = make_error(Code::kIo, "no namespaces");
  Status done = tick(1s);
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().message, "no namespaces");
  EXPECT_EQ(censuses_, 1) << "one chore kept back the other";
  adopt_error_.reset();
  census_error_ = make_error(Code::kIo, "no sockets");
  done = tick(6s);
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().message, "no sockets");
  census_error_.reset();
  EXPECT_TRUE(tick(11s).ok());
  EXPECT_EQ(censuses_, 3);
}

}  // namespace
}  // namespace weir::kernel
