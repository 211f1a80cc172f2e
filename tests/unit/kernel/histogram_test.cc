// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/histogram.h"

#include <gtest/gtest.h>

#include "bpf/lib/histogram.bpf.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

Histogram recorded(std::initializer_list<std::chrono::nanoseconds> samples) {
  weir_hist raw{};
  for (const auto sample : samples) {
    weir_hist_record(&raw, static_cast<std::uint64_t>(sample.count()));
  }
  Histogram histogram;
  histogram.add(raw);
  return histogram;
}

TEST(Histogram, BucketsAreContiguousAndAtMostAQuarterWide) {
  for (std::uint32_t i = 0; i + 1 < WEIR_HIST_BUCKETS; ++i) {
    const auto bound = static_cast<std::uint64_t>(Histogram::upper_bound(i).count());
    ASSERT_EQ(weir_hist_index(bound - 1), i);
    ASSERT_EQ(weir_hist_index(bound), i + 1);
    const auto next = Histogram::upper_bound(i + 1).count();
    ASSERT_LE(static_cast<double>(next), 1.25 * static_cast<double>(bound));
  }
}

TEST(Histogram, EndsOfTheRangeShareTheOutermostBuckets) {
  EXPECT_EQ(weir_hist_index(0), 0U);
  EXPECT_EQ(weir_hist_index(999), 0U);
  EXPECT_EQ(weir_hist_index(1000), 0U);
  EXPECT_EQ(weir_hist_index(1250), 1U);
  EXPECT_EQ(weir_hist_index(134'217'728'000), WEIR_HIST_BUCKETS - 1U);
  EXPECT_EQ(weir_hist_index(UINT64_MAX), WEIR_HIST_BUCKETS - 1U);
  EXPECT_EQ(Histogram::upper_bound(WEIR_HIST_BUCKETS - 1).count(), 134'217'728'000);
}

TEST(Histogram, Log2MatchesTheDefinition) {
  EXPECT_EQ(weir_log2(0), 0U);
  for (std::uint32_t bit = 0; bit < 64; ++bit) {
    const std::uint64_t power = std::uint64_t{1} << bit;
    ASSERT_EQ(weir_log2(power), bit);
    ASSERT_EQ(weir_log2(power | (power - 1)), bit);
  }
}

TEST(Histogram, EmptyHasNoMeanAndNoQuantile) {
  const Histogram empty;
  EXPECT_EQ(empty.count(), 0U);
  EXPECT_FALSE(empty.mean().has_value());
  EXPECT_FALSE(empty.quantile(0.5).has_value());
}

TEST(Histogram, SteadyBackendIsExact) {
  const Histogram histogram = recorded({5003us, 5003us, 5003us});
  EXPECT_EQ(histogram.count(), 3U);
  EXPECT_EQ(histogram.sum(), 15009us);
  EXPECT_EQ(histogram.mean(), 5003us);
  EXPECT_EQ(histogram.quantile(0.0), 5003us);
  EXPECT_EQ(histogram.quantile(0.5), 5003us);
  EXPECT_EQ(histogram.quantile(1.0), 5003us);
}

TEST(Histogram, QuantileIsTheRankedSample) {
  const Histogram histogram =
      recorded({10us, 20us, 40us, 80us, 160us, 320us, 640us, 1280us, 2560us, 5120us});
  EXPECT_EQ(histogram.quantile(0.1), 10us);
  EXPECT_EQ(histogram.quantile(0.5), 160us);
  EXPECT_EQ(histogram.quantile(0.51), 320us);
  EXPECT_EQ(histogram.quantile(0.9), 2560us);
  EXPECT_EQ(histogram.quantile(0.99), 5120us);
}

TEST(Histogram, QuantileIsTheMeanOfItsBucket) {
  EXPECT_EQ(recorded({16us, 18us}).quantile(0.5), 17us);  // one bucket: 16 to 20 us
}

TEST(Histogram, SumsOverCpusAndSubtractsOlderReadings) {
  weir_hist cpu0{};
  weir_hist cpu1{};
  weir_hist_record(&cpu0, 1'000'000);
  Histogram earlier;
  earlier.add(cpu0);
  weir_hist_record(&cpu1, 3'000'000);
  Histogram later;
  later.add(cpu0);
  later.add(cpu1);

  EXPECT_EQ(later.count(), 2U);
  const Histogram between = later.since(earlier);
  EXPECT_EQ(between.count(), 1U);
  EXPECT_EQ(between.mean(), 3ms);
  EXPECT_EQ(earlier.since(later).count(), 0U);  // never below zero
}

}  // namespace
}  // namespace weir::kernel
