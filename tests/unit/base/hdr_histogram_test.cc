// SPDX-License-Identifier: Apache-2.0
#include "agent/base/hdr_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace weir {
namespace {

TEST(HdrHistogram, HasNoFiguresWhileEmpty) {
  const HdrHistogram empty;
  EXPECT_EQ(empty.count(), 0U);
  EXPECT_FALSE(empty.min().has_value());
  EXPECT_FALSE(empty.max().has_value());
  EXPECT_FALSE(empty.mean().has_value());
  EXPECT_FALSE(empty.quantile(0.5).has_value());
  EXPECT_EQ(empty.share_up_to(100), 0);
}

TEST(HdrHistogram, IsExactBelow2048) {
  HdrHistogram histogram;
  for (std::uint64_t value = 0; value < 2048; ++value) histogram.record(value);
  EXPECT_EQ(histogram.quantile(0), 0U);
  EXPECT_EQ(histogram.quantile(0.5), 1023U);
  EXPECT_EQ(histogram.quantile(0.25), 511U);
  EXPECT_EQ(histogram.quantile(1), 2047U);
  EXPECT_DOUBLE_EQ(*histogram.mean(), 1023.5);
}

TEST(HdrHistogram, QuantileIsNeverBelowAndAtMostATenthOfAPercentAboveTheSample) {
  std::mt19937_64 random(7);
  std::vector<std::uint64_t> samples;
  HdrHistogram histogram;
  for (int i = 0; i < 20000; ++i) {
    // All magnitudes alike.
    const auto value = random() >> (random() % 64);
    samples.push_back(value);
    histogram.record(value);
  }
  std::sort(samples.begin(), samples.end());
  for (const double q : {0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0}) {
    const auto rank = std::max<std::size_t>(
        static_cast<std::size_t>(std::ceil(q * static_cast<double>(samples.size()))), 1);
    const auto exact = static_cast<double>(samples[rank - 1]);
    const auto told = static_cast<double>(*histogram.quantile(q));
    EXPECT_GE(told, exact) << q;
    EXPECT_LE(told, exact * 1.001) << q;
  }
}

TEST(HdrHistogram, BucketsTileTheWholeRange) {
  HdrHistogram histogram;
  for (unsigned bit = 0; bit < 64; ++bit) {
    const std::uint64_t power = std::uint64_t{1} << bit;
    for (const std::uint64_t value : {power - 1, power, power + 1}) histogram.record(value);
  }
  histogram.record(std::numeric_limits<std::uint64_t>::max());
  std::uint64_t counted = 0;
  std::uint64_t last = 0;
  histogram.for_each_bucket([&](std::uint64_t low, std::uint64_t high, std::uint64_t count) {
    EXPECT_LE(low, high);
    EXPECT_TRUE(counted == 0 || low > last) << low << " after " << last;
    // Each bound falls into the bucket that it bounds.
    HdrHistogram one;
    one.record(low);
    one.record(high);
    int buckets = 0;
    one.for_each_bucket([&](std::uint64_t, std::uint64_t, std::uint64_t) { ++buckets; });
    EXPECT_EQ(buckets, 1) << low << ".." << high;
    last = high;
    counted += count;
  });
  EXPECT_EQ(counted, histogram.count());
  EXPECT_EQ(counted, 64U * 3 + 1);
  EXPECT_EQ(last, std::numeric_limits<std::uint64_t>::max());
}

TEST(HdrHistogram, MergeIsAsIfAllWereRecordedInOne) {
  std::mt19937_64 random(11);
  HdrHistogram left;
  HdrHistogram right;
  HdrHistogram both;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t value = random() % 1000000000;
    (i % 3 == 0 ? left : right).record(value, 2);
    both.record(value);
    both.record(value);
  }
  left.merge(right);
  EXPECT_EQ(left.count(), both.count());
  EXPECT_EQ(left.min(), both.min());
  EXPECT_EQ(left.max(), both.max());
  EXPECT_DOUBLE_EQ(*left.mean(), *both.mean());
  for (const double q : {0.1, 0.5, 0.9, 0.999}) EXPECT_EQ(left.quantile(q), both.quantile(q));
  left.merge(HdrHistogram());
  EXPECT_EQ(left.min(), both.min());
}

TEST(HdrHistogram, ShareUpToCountsTheBucketOfTheValue) {
  HdrHistogram histogram;
  for (std::uint64_t value = 1; value <= 10; ++value) histogram.record(value * 100);
  EXPECT_DOUBLE_EQ(histogram.share_up_to(99), 0);
  EXPECT_DOUBLE_EQ(histogram.share_up_to(100), 0.1);
  EXPECT_DOUBLE_EQ(histogram.share_up_to(550), 0.5);
  EXPECT_DOUBLE_EQ(histogram.share_up_to(1000000), 1);
}

}  // namespace
}  // namespace weir
