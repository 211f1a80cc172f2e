// SPDX-License-Identifier: Apache-2.0
#include "agent/schedule/step_time.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace weir::schedule {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

Duration of_seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

double predicted(const StepTime& step_time, std::size_t size) {
  return std::chrono::duration<double>(step_time.predict(size).value()).count();
}

TEST(StepTime, KnowsNothingBeforeTheFirstBatch) {
  const StepTime step_time(32);
  EXPECT_EQ(step_time.predict(1), std::nullopt);
  EXPECT_EQ(step_time.line(), std::nullopt);
  EXPECT_EQ(step_time.knee(20, 0), 20U);
}

TEST(StepTime, BoundsOtherSizesWhileItKnowsOne) {
  StepTime step_time(32);
  for (int i = 0; i < 5; ++i) step_time.observe(4, milliseconds(8));
  EXPECT_EQ(step_time.predict(4), milliseconds(8));
  EXPECT_EQ(step_time.predict(1), milliseconds(8));
  EXPECT_EQ(step_time.predict(32), milliseconds(64));
  EXPECT_EQ(step_time.line(), std::nullopt);
}

TEST(StepTime, FitsALineThroughTwoSizes) {
  StepTime step_time(32);
  for (int i = 0; i < 20; ++i) {
    step_time.observe(2, microseconds(1200));
    step_time.observe(10, microseconds(2000));
  }
  ASSERT_TRUE(step_time.line());
  EXPECT_NEAR(step_time.line()->fixed_s, 1e-3, 1e-5);
  EXPECT_NEAR(step_time.line()->item_s, 0.1e-3, 1e-6);
  EXPECT_NEAR(predicted(step_time, 32), 4.2e-3, 5e-5);
}

TEST(StepTime, KeepsTheSlopeWhenOnlyOneSizeComesAnyMore) {
  StepTime step_time(32);
  for (int i = 0; i < 20; ++i) {
    step_time.observe(2, microseconds(1200));
    step_time.observe(10, microseconds(2000));
  }
  for (int i = 0; i < 5000; ++i) step_time.observe(10, microseconds(2000));
  EXPECT_NEAR(step_time.line()->item_s, 0.1e-3, 1e-5);
  EXPECT_NEAR(predicted(step_time, 2), 1.2e-3, 1e-4);
}

TEST(StepTime, IsNotMovedByOneSlowBatch) {
  StepTime step_time(32);
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> noise(0.98, 1.02);
  std::uniform_int_distribution<std::size_t> size(1, 32);
  for (int i = 0; i < 500; ++i) {
    const std::size_t n = size(random);
    step_time.observe(n, of_seconds((1e-3 + 1e-4 * static_cast<double>(n)) * noise(random)));
  }
  const double before = predicted(step_time, 16);
  step_time.observe(16, milliseconds(500));
  EXPECT_LT(predicted(step_time, 16), 1.05 * before);
}

TEST(StepTime, FollowsALastingChangeWithinTensOfBatches) {
  StepTime step_time(32);
  std::mt19937_64 random(2);
  std::uniform_int_distribution<std::size_t> size(1, 32);
  const auto run = [&](int batches, double scale) {
    for (int i = 0; i < batches; ++i) {
      const std::size_t n = size(random);
      step_time.observe(n, of_seconds(scale * (1e-3 + 1e-4 * static_cast<double>(n))));
    }
  };
  run(1000, 1);
  run(100, 5);
  EXPECT_NEAR(predicted(step_time, 16), 5 * 2.6e-3, 0.25 * 5 * 2.6e-3);
}

TEST(StepTime, LearnsLinesOfManyShapesThroughNoise) {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> exponent(-6, -2);
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  std::uniform_int_distribution<std::size_t> size(1, 32);
  for (int shape = 0; shape < 200; ++shape) {
    const double fixed_s = std::pow(10, exponent(random));
    const double item_s = std::pow(10, exponent(random)) / 10;
    StepTime step_time(32);
    const auto truth = [&](std::size_t n) { return fixed_s + item_s * static_cast<double>(n); };
    for (int i = 0; i < 400; ++i) {
      const std::size_t n = size(random);
      step_time.observe(n, of_seconds(truth(n) * noise(random)));
    }
    for (const std::size_t n : {1U, 8U, 16U, 32U}) {
      EXPECT_NEAR(predicted(step_time, n), truth(n), 0.15 * truth(n) + 1e-7)
          << "fixed " << fixed_s << " item " << item_s << " size " << n;
    }
    EXPECT_GE(step_time.line()->fixed_s, 0);
    EXPECT_GE(step_time.line()->item_s, 0);
  }
}

TEST(StepTime, LearnsShapesThatAreNoLines) {
  // 0.4 ms each beyond sixteen: by the first batch of a size, which nothing known foretells.
  const auto truth = [](std::size_t n) {
    return 1e-3 + 5e-5 * static_cast<double>(n) + (n > 16 ? 4e-4 * static_cast<double>(n - 16) : 0);
  };
  StepTime step_time(32);
  for (const std::size_t n : {1U, 2U, 4U, 8U, 16U}) step_time.observe(n, of_seconds(truth(n)));
  EXPECT_LT(predicted(step_time, 32), 3e-3);
  step_time.observe(32, of_seconds(truth(32)));
  EXPECT_NEAR(predicted(step_time, 32), truth(32), 1e-6);
  EXPECT_EQ(step_time.knee(32, 1e9), 16U);
}

TEST(StepTime, TriesASizeAgainThatWasSlowOnce) {
  StepTime step_time(32);
  for (const std::size_t n : {1U, 2U, 4U, 8U, 16U}) step_time.observe(n, milliseconds(2));
  step_time.observe(32, milliseconds(50));
  EXPECT_EQ(step_time.knee(32, 1e9), 16U);
  step_time.observe(32, milliseconds(2));
  EXPECT_EQ(step_time.knee(32, 1e9), 32U);
}

/// Random shapes that never fall: bent lines, knees, stairs.
class AnyShape {
 public:
  explicit AnyShape(std::mt19937_64& random) {
    std::uniform_real_distribution<double> exponent(-1, 1);
    item_s_ = 1e-4 * std::pow(10, exponent(random));
    fixed_s_ = item_s_ * std::pow(10, 1 + exponent(random));
    bend_ = std::uniform_real_distribution<double>(0.6, 1.4)(random);
    knee_ = std::uniform_int_distribution<int>(4, 40)(random);
    beyond_s_ = item_s_ * std::uniform_real_distribution<double>(0, 8)(random);
    tile_ = std::uniform_int_distribution<int>(1, 8)(random);
  }
  double operator()(std::size_t size) const {
    const double n = std::ceil(static_cast<double>(size) / tile_) * tile_;
    return fixed_s_ + item_s_ * std::pow(n, bend_) + beyond_s_ * std::max(0.0, n - knee_);
  }

 private:
  double item_s_, fixed_s_, bend_, beyond_s_;
  int knee_, tile_;
};

TEST(StepTime, NeverFallsAndChoosesNearlyTheBestWhateverTheShapeAndTheNoise) {
  std::mt19937_64 random(4);
  std::lognormal_distribution<double> noise(0, 0.1);
  std::bernoulli_distribution disturbed(0.005);
  for (int trial = 0; trial < 200; ++trial) {
    const std::size_t largest = trial % 2 == 0 ? 32 : 200;
    const AnyShape truth(random);
    StepTime step_time(largest);
    // Also with few sizes seen, and in any order.
    std::uniform_int_distribution<std::size_t> size(1, largest);
    for (int i = 0; i < 1500; ++i) {
      const std::size_t n = size(random);
      step_time.observe(n, of_seconds(truth(n) * noise(random) * (disturbed(random) ? 10 : 1)));
      if (i < 5 || i % 250 == 0) {
        double last_s = 0;
        for (std::size_t k = 1; k <= largest && step_time.line(); ++k) {
          const double now_s = step_time.seconds_of(k);
          ASSERT_GE(now_s, last_s * (1 - 1e-9)) << "trial " << trial << " size " << k;
          last_s = now_s;
        }
        const std::size_t knee = step_time.knee(n, 1e9);
        ASSERT_TRUE(knee >= 1 && knee <= n) << knee << " of " << n;
      }
    }
    double best = 0;
    for (std::size_t n = 1; n <= largest; ++n) {
      best = std::max(best, static_cast<double>(n) / truth(n));
    }
    const std::size_t knee = step_time.knee(largest, 1e12);
    EXPECT_GE(static_cast<double>(knee) / truth(knee), 0.85 * best) << "trial " << trial;
  }
}

TEST(StepTime, SharesMeansAmongLargeSizes) {
  StepTime step_time(4096);
  for (int i = 0; i < 50; ++i) {
    for (const std::size_t n : {1U, 64U, 65U, 100U, 1000U, 4096U}) {
      step_time.observe(n, of_seconds(1e-3 + 1e-5 * static_cast<double>(n)));
    }
  }
  for (const std::size_t n : {1U, 63U, 65U, 129U, 777U, 4095U, 4096U}) {
    const double truth = 1e-3 + 1e-5 * static_cast<double>(n);
    EXPECT_NEAR(predicted(step_time, n), truth, 0.05 * truth) << n;
  }
}

class Knee : public testing::Test {
 protected:
  template <typename Model>
  StepTime learned(Model model) {
    StepTime step_time(32);
    for (int round = 0; round < 20; ++round) {
      for (std::size_t n = 1; n <= 32; ++n) {
        step_time.observe(n, of_seconds(model(static_cast<double>(n))));
      }
    }
    return step_time;
  }
};

TEST_F(Knee, IsTheWholeBatchWhereTheFixedPartIsLarge) {
  const StepTime step_time = learned([](double n) { return 5e-3 + 1e-5 * n; });
  const double capacity = 32 / 5.32e-3;
  EXPECT_EQ(step_time.knee(32, capacity), 32U);
  EXPECT_EQ(step_time.knee(7, capacity), 7U);
}

TEST_F(Knee, IsEarlyWhereTheFixedPartIsSmall) {
  const StepTime step_time = learned([](double n) { return 1e-4 + 1e-3 * n; });
  const double capacity = 32 / 32.1e-3;
  EXPECT_EQ(step_time.knee(32, 0), 1U);
  EXPECT_GT(step_time.knee(32, 0.95 * capacity), 2U);
  EXPECT_EQ(step_time.knee(32, 2 * capacity), 32U);
}

TEST_F(Knee, StopsWhereACacheOverflows) {
  const StepTime step_time =
      learned([](double n) { return 1e-3 + 5e-5 * n + (n > 16 ? 4e-4 * (n - 16) : 0); });
  EXPECT_EQ(step_time.knee(32, 1e9), 16U);
  EXPECT_EQ(step_time.knee(9, 1e9), 9U);
}

TEST_F(Knee, EndsWithAFullTile) {
  const StepTime step_time = learned([](double n) { return 2e-3 * std::ceil(n / 8); });
  EXPECT_EQ(step_time.knee(15, 1e9), 8U);
  EXPECT_EQ(step_time.knee(7, 1e9), 7U);
}

}  // namespace
}  // namespace weir::schedule
