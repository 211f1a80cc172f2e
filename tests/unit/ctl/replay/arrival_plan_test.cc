// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/arrival_plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "agent/ctl/replay/prompt_text.h"
#include "agent/ctl/replay/request_text.h"

namespace weir::replay {
namespace {

using namespace std::chrono_literals;

Options poisson(double rate, double duration_s) {
  Options options;
  options.poisson_per_s = rate;
  options.duration_s = duration_s;
  options.target = *parse_target("http://h:1");
  EXPECT_TRUE(options.complete());
  return options;
}

Options of_trace() {
  Options options;
  options.trace = "t";
  options.target = *parse_target("http://h:1");
  EXPECT_TRUE(options.complete());
  return options;
}

Trace three() {
  Trace trace;
  trace.records = {
      {.at = 0s, .prompt_tokens = 600, .output_tokens = 10, .first_block = 0, .blocks = 2},
      {.at = 1s, .prompt_tokens = 700, .output_tokens = 0, .first_block = 2, .blocks = 2},
      {.at = 3s, .prompt_tokens = 1, .output_tokens = 5}};
  trace.blocks = {7, 8, 7, 9};
  return trace;
}

/// Their blocks live as long as the plan.
std::vector<Arrival> all_of(ArrivalPlan& plan) {
  std::vector<Arrival> arrivals;
  while (auto next = plan.next()) arrivals.push_back(*next);
  return arrivals;
}

std::vector<Arrival> all_of(const Options& options) {
  auto plan = ArrivalPlan::create(options);
  return all_of(*plan);
}

std::string prompt_of(const Arrival& arrival, double scale = 1, std::uint64_t seed = 1) {
  std::string out;
  PromptText(seed, scale).append(out, arrival);
  return out;
}

TEST(ArrivalPlan, PoissonHasItsRateAndItsSpread) {
  const auto arrivals = all_of(poisson(1000, 20));
  // Five standard deviations of 20000.
  EXPECT_NEAR(static_cast<double>(arrivals.size()), 20000, 5 * std::sqrt(20000.0));
  double squares = 0;
  Duration before{};
  for (const Arrival& arrival : arrivals) {
    ASSERT_GE(arrival.due, before);
    ASSERT_LT(arrival.due, 20s);
    const double gap_ms = std::chrono::duration<double, std::milli>(arrival.due - before).count();
    squares += gap_ms * gap_ms;
    before = arrival.due;
  }
  // Mean of the squares of exponential gaps: twice the square of their mean.
  EXPECT_NEAR(squares / static_cast<double>(arrivals.size()), 2, 0.15);
}

TEST(ArrivalPlan, IsTheSameForTheSameSeedOnly) {
  Options options = poisson(100, 1);
  const auto first = all_of(options);
  const auto again = all_of(options);
  ASSERT_EQ(first.size(), again.size());
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i].due, again[i].due);
  options.seed = 2;
  EXPECT_NE(all_of(options).front().due, first.front().due);
}

TEST(ArrivalPlan, ClassesAndTenantsComeByTheirSharesAndMoveNoArrival) {
  Options options = poisson(1000, 10);
  const auto plain = all_of(options);
  options.classes = {{"high", 1, 0, {}}, {"low", 4, 6, {}}};
  options.tenants = {{"a", 1}, {"b", 1}, {"c", 2}};
  const auto arrivals = all_of(options);
  ASSERT_EQ(arrivals.size(), plain.size());
  const auto total = static_cast<double>(arrivals.size());
  double high = 0;
  std::vector<double> tenants(3, 0);
  for (std::size_t i = 0; i < arrivals.size(); ++i) {
    EXPECT_EQ(arrivals[i].due, plain[i].due);
    high += arrivals[i].request_class == 0 ? 1 : 0;
    ++tenants.at(arrivals[i].tenant);
  }
  EXPECT_NEAR(high / total, 0.2, 0.02);
  EXPECT_NEAR(tenants[0] / total, 0.25, 0.02);
  EXPECT_NEAR(tenants[2] / total, 0.5, 0.025);
}

TEST(ArrivalPlan, LengthsOfPoissonLieInTheirRange) {
  Options options = poisson(1000, 2);
  options.prompt_tokens = {3, 5};
  std::vector<int> seen(6, 0);
  for (const Arrival& arrival : all_of(options)) {
    ASSERT_GE(arrival.prompt_tokens, 3U);
    ASSERT_LE(arrival.prompt_tokens, 5U);
    ++seen[arrival.prompt_tokens];
  }
  for (const std::size_t length : {3U, 4U, 5U}) EXPECT_GT(seen[length], 500);
}

TEST(ArrivalPlan, ReplaysATraceAtItsSpeed) {
  Options options = of_trace();
  options.speed = 2;
  ArrivalPlan plan = ArrivalPlan::of_trace(options, three());
  const auto arrivals = all_of(plan);
  ASSERT_EQ(arrivals.size(), 3U);
  EXPECT_EQ(arrivals[1].due, 500ms);
  EXPECT_EQ(arrivals[2].due, 1500ms);
  EXPECT_EQ(arrivals[0].prompt_tokens, 600U);
  EXPECT_EQ(arrivals[1].output_tokens, 1U) << "at least one";
  EXPECT_EQ(arrivals[2].serial, 2U);
}

TEST(ArrivalPlan, WhatIsTooFarAwayNeverComesEarly) {
  Options options = of_trace();
  options.speed = 1e-6;
  Trace trace = three();
  trace.records[2].at = std::chrono::hours(24 * 365);
  ArrivalPlan plan = ArrivalPlan::of_trace(options, trace);
  EXPECT_EQ(all_of(plan)[2].due, std::chrono::seconds(1'000'000'000));

  Options slow;
  slow.poisson_per_s = 0.001;
  slow.limit = std::uint64_t{1} << 40;
  ASSERT_TRUE(slow.complete());
  EXPECT_EQ(ArrivalPlan::create(slow)->span(), std::chrono::seconds(1'000'000'000));
}

TEST(ArrivalPlan, ScaledLengthsAreNoLongerThanATraceMaySay) {
  Options options = of_trace();
  options.scale_lengths = 1e6;
  ArrivalPlan plan = ArrivalPlan::of_trace(options, three());
  EXPECT_EQ(all_of(plan)[0].prompt_tokens, 16U * 1024 * 1024);
}

TEST(ArrivalPlan, IsCutByDurationAndByNumber) {
  Options options = of_trace();
  options.duration_s = 2;
  ArrivalPlan by_time = ArrivalPlan::of_trace(options, three());
  EXPECT_EQ(by_time.size(), 2U);
  EXPECT_EQ(by_time.span(), 1s);
  EXPECT_TRUE(by_time.next() && by_time.next() && !by_time.next());
  EXPECT_TRUE(by_time.cut_by_duration());
  options.duration_s.reset();
  options.limit = 1;
  ArrivalPlan by_number = ArrivalPlan::of_trace(options, three());
  EXPECT_EQ(by_number.size(), 1U);
  EXPECT_TRUE(by_number.next() && !by_number.next());
  EXPECT_FALSE(by_number.cut_by_duration());
}

TEST(ArrivalPlan, ScalesAndThenCapsLengths) {
  Options options = of_trace();
  options.scale_lengths = 0.1;
  options.max_prompt_tokens = 65;
  options.max_output_tokens = 2;
  ArrivalPlan plan = ArrivalPlan::of_trace(options, three());
  const auto arrivals = all_of(plan);
  EXPECT_EQ(arrivals[0].prompt_tokens, 60U);
  EXPECT_EQ(arrivals[1].prompt_tokens, 65U);
  EXPECT_EQ(arrivals[2].prompt_tokens, 1U);
  EXPECT_EQ(arrivals[0].output_tokens, 1U);
}

TEST(PromptText, HasFourBytesForEachTokenAndNothingToEscape) {
  for (const std::uint32_t tokens : {1U, 2U, 10U, 11U, 511U, 512U, 513U, 5000U}) {
    Arrival arrival;
    arrival.prompt_tokens = tokens;
    const std::string prompt = prompt_of(arrival);
    ASSERT_EQ(prompt.size(), 4 * tokens);
    EXPECT_EQ(prompt.find_first_not_of("abcdefghijklmnopqrstuvwxyz ."), std::string::npos);
    EXPECT_EQ(prompt.find('.'), prompt.size() - 1);
  }
}

TEST(PromptText, DiffersBetweenRequestsAndSeedsNotBetweenRuns) {
  Arrival arrival;
  arrival.prompt_tokens = 20;
  const std::string first = prompt_of(arrival);
  EXPECT_EQ(prompt_of(arrival), first);
  EXPECT_NE(prompt_of(arrival, 1, 2), first);
  arrival.serial = 1;
  EXPECT_NE(prompt_of(arrival), first);
}

TEST(PromptText, SharesAsManyBlocksAsTheTrace) {
  ArrivalPlan plan = ArrivalPlan::of_trace(of_trace(), three());
  const auto arrivals = all_of(plan);
  const std::string first = prompt_of(arrivals[0]);
  const std::string second = prompt_of(arrivals[1]);
  EXPECT_EQ(first.substr(0, 2048), second.substr(0, 2048));
  EXPECT_NE(first.substr(2048, 300), second.substr(2048, 300));
}

TEST(PromptText, BlocksShrinkWithTheLengths) {
  Options options = of_trace();
  options.scale_lengths = 0.25;
  ArrivalPlan plan = ArrivalPlan::of_trace(options, three());
  const auto arrivals = all_of(plan);
  const std::string first = prompt_of(arrivals[0], 0.25);
  const std::string second = prompt_of(arrivals[1], 0.25);
  ASSERT_EQ(first.size(), 600U);
  EXPECT_EQ(first.substr(0, 512), second.substr(0, 512));
  EXPECT_NE(first.substr(512, 80), second.substr(512, 80));
}

TEST(RequestText, IsARequestOfItsApi) {
  Options options = poisson(1, 1);
  options.model = "m-1";
  options.classes = {{"c", 1, 3, 250ms}};
  options.tenants = {{"t1", 1}};
  options.headers = {{"X-A", "b"}};
  Arrival arrival;
  arrival.prompt_tokens = 2;
  arrival.output_tokens = 17;
  std::string text = "left over";
  RequestText(options).write(text, arrival);
  const std::string body = R"({"model":"m-1","prompt":")" + prompt_of(arrival) +
                           R"(","max_tokens":17,"priority":3,"deadline_ms":250})";
  EXPECT_EQ(text,
            "POST /infer HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/json\r\n"
            "Accept: application/json\r\nx-weir-model: m-1\r\nx-weir-priority: 3\r\n"
            "x-weir-timeout-ms: 250\r\nx-weir-tenant: t1\r\nX-A: b\r\nContent-Length: " +
                std::to_string(body.size()) + "\r\n\r\n" + body);
}

TEST(RequestText, QuotesNamesThatNoFieldCanHave) {
  Options options = poisson(1, 1);
  options.model = "a\"b\r\nc";
  std::string text;
  RequestText(options).write(text, Arrival());
  EXPECT_NE(text.find(R"({"model":"a\"b\r\nc",)"), std::string::npos);
  EXPECT_EQ(text.find("x-weir-model"), std::string::npos);
}

TEST(RequestText, AsksForAStreamWithItsUsage) {
  Options options = poisson(1, 1);
  options.api = Api::kCompletions;
  options.stream = true;
  options.target = *parse_target("h:1/other");
  std::string text;
  RequestText(options).write(text, Arrival());
  EXPECT_TRUE(text.starts_with("POST /other HTTP/1.1\r\n"));
  EXPECT_NE(text.find(R"("stream":true,"stream_options":{"include_usage":true}})"),
            std::string::npos);
  EXPECT_EQ(text.find("\"model\""), std::string::npos);
  EXPECT_EQ(text.find("x-weir-tenant"), std::string::npos);
}

}  // namespace
}  // namespace weir::replay
