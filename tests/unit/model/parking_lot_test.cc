// SPDX-License-Identifier: Apache-2.0
#include "agent/model/parking_lot.h"

#include <gtest/gtest.h>

#include <random>

namespace weir::model {
namespace {

Urgency at(std::int32_t level, std::uint64_t admission) {
  return {level, TimePoint::max(), admission};
}

std::unique_ptr<int> value(int number) { return std::make_unique<int>(number); }

std::vector<std::uint8_t> state(std::size_t bytes) { return std::vector<std::uint8_t>(bytes, 7); }

TEST(ParkingLot, GivesBackWhatWasParked) {
  ParkingLot<int> lot(100);
  lot.park(at(1, 5), value(5), state(30));
  lot.park(at(0, 9), value(9), {});
  EXPECT_EQ(lot.size(), 2U);
  EXPECT_EQ(lot.bytes(), 30U);
  EXPECT_EQ(*lot.places().begin()->second.value, 9);  // worth most
  const auto parked = lot.take(at(1, 5));
  EXPECT_EQ(*parked.value, 5);
  EXPECT_EQ(parked.state, state(30));
  EXPECT_EQ(lot.bytes(), 0U);
}

TEST(ParkingLot, WithinTheBudgetTheMostUrgentKeepTheirCopies) {
  ParkingLot<int> lot(100);
  lot.park(at(4, 1), value(1), state(60));
  lot.park(at(4, 2), value(2), state(40));
  // Worth less than both: nothing is dropped for it.
  EXPECT_FALSE(lot.keeps(at(4, 3), 10));
  lot.park(at(4, 3), value(3), state(10));
  EXPECT_EQ(lot.dropped(), 1U);
  EXPECT_EQ(lot.bytes(), 100U);
  // Worth more: the copy of the least goes, and that is enough.
  EXPECT_TRUE(lot.keeps(at(1, 4), 30));
  lot.park(at(1, 4), value(4), state(30));
  EXPECT_EQ(lot.dropped(), 2U);
  EXPECT_EQ(lot.bytes(), 90U);
  EXPECT_TRUE(lot.take(at(4, 2)).state.empty());
  EXPECT_EQ(lot.take(at(4, 1)).state.size(), 60U);
  EXPECT_TRUE(lot.take(at(4, 3)).state.empty());
  EXPECT_EQ(lot.take(at(1, 4)).state.size(), 30U);
  EXPECT_TRUE(lot.empty());
}

TEST(ParkingLot, WithoutABudgetEverythingIsComputedAgain) {
  ParkingLot<int> lot(0);
  lot.park(at(4, 1), value(1), state(1));
  EXPECT_EQ(lot.bytes(), 0U);
  EXPECT_EQ(lot.dropped(), 1U);
  EXPECT_EQ(*lot.take(at(4, 1)).value, 1);
}

TEST(ParkingLot, NeverHoldsMoreBytesThanItMayAndLosesNobody) {
  std::mt19937 random(6);
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t budget = random() % 200;
    ParkingLot<int> lot(budget);
    std::vector<Urgency> in;
    for (int i = 0; i < 100; ++i) {
      if (in.empty() || random() % 2 == 0) {
        in.push_back(at(static_cast<std::int32_t>(random() % 3), static_cast<std::uint64_t>(i)));
        const std::size_t bytes = random() % 80;
        const bool keeps = lot.keeps(in.back(), bytes);
        const std::uint64_t before = lot.bytes();
        lot.park(in.back(), value(i), state(bytes));
        ASSERT_EQ(lot.places().at(in.back()).state.size(), keeps ? bytes : 0);
        ASSERT_TRUE(keeps || lot.bytes() == before);
      } else {
        const std::size_t place = random() % in.size();
        const auto parked = lot.take(in[place]);
        ASSERT_EQ(static_cast<std::uint64_t>(*parked.value), in[place].admission);
        in[place] = in.back();
        in.pop_back();
      }
      std::uint64_t bytes = 0;
      for (const auto& [urgency, parked] : lot.places()) bytes += parked.state.size();
      ASSERT_EQ(lot.bytes(), bytes);
      ASSERT_LE(bytes, budget);
      ASSERT_EQ(lot.size(), in.size());
    }
  }
}

}  // namespace
}  // namespace weir::model
