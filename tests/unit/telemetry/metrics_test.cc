// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

namespace weir::telemetry {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

struct MetricsTest : testing::Test {
  void SetUp() override {
    input.build_id = "v1";
    RouteReading route;
    route.path = "/infer";
    route.by_code[0] = 3;
    route.duration_buckets[2] = 2;
    route.duration_buckets[kDurationBuckets] = 1;
    route.duration_sum = std::chrono::milliseconds(1500);
    input.http.routes.push_back(route);

    model::ModelInfo info;
    info.name = "a\"b\\c\nd";
    info.state = model::ModelInfo::State::kReady;
    info.load_progress = 0.5F;
    info.completed = 4;
    info.expired = 5;
    info.refused[static_cast<std::size_t>(model::RefusalReason::kQueueFull)] = 6;
    info.refused[static_cast<std::size_t>(model::RefusalReason::kDeadline)] = 7;
    info.queued_tokens = 8;
    info.overdue = 9;
    info.resting = 10;
    info.promoted = 11;
    info.decode_aborts = 12;
    info.loads = 13;
    info.load_failures = 14;
    info.unloads[static_cast<std::size_t>(model::UnloadCause::kEvicted)] = 15;
    info.memory_bytes = 16;
    info.queue_wait.add(std::chrono::milliseconds(3));
    info.queue_wait.add(std::chrono::minutes(3));
    input.models.push_back(info);

    snapshot.meta.abi_version = 2;
    snapshot.meta.request_clock = WEIR_CLOCK_SKB;
    snapshot.stats[WEIR_STAT_RELEASED] = 12;
    kernel::ServiceReading service;
    service.name = "llm";
    service.address = *Endpoint::parse("10.96.0.10:80");
    service.picks = 20;
    service.policy = WEIR_POLICY_P2C;
    service.refuse_when_empty = true;
    service.members = 3;
    service.open = 1;
    service.rif_limit = 2.5;
    service.misses = 2;
    service.panics = 4;
    service.backups = 6;
    snapshot.services.push_back(service);
    kernel::ServiceReading backup;
    backup.name = "llm.backup";
    snapshot.services.push_back(backup);
    snapshot.census.sockets = 9;
    snapshot.census.corrected = 1;
    kernel::BackendReading backend;
    backend.service = "llm";
    backend.address = *Endpoint::parse("[::1]:9000");
    backend.state = WEIR_BE_ACTIVE;
    backend.breaker.state = WEIR_BREAKER_HALF_OPEN;
    backend.breaker.level = 2;
    backend.weight = 0.25;
    backend.latency = std::chrono::milliseconds(5);
    backend.in_flight = 5;
    backend.fresh = 1;
    backend.waiting = 2;
    backend.streaming = 3;
    backend.bytes_sent = 10;
    weir_hist hist{};
    hist.bucket[4] = {2, 8'000};                                // second octave
    hist.bucket[7] = {1, 7'000};                                // the same
    hist.bucket[WEIR_HIST_BUCKETS - 1] = {3, 600'000'000'000};  // the last one
    auto histograms = std::make_shared<std::array<kernel::Histogram, WEIR_HIST_KINDS>>();
    (*histograms)[WEIR_HIST_TTFB].add(hist);
    backend.histograms = std::move(histograms);
    snapshot.backends.push_back(backend);
    input.admission = &admission;
    input.workers.emplace().workers.resize(2);
    input.kernel = &snapshot;
  }

  /// Value of a series; NaN when there is none.
  double value(const std::string& series) const {
    for (const std::string& line : lines_of(render_metrics(input))) {
      if (line.starts_with(series + " ")) return std::stod(line.substr(series.size() + 1));
    }
    return std::nan("");
  }

  MetricsInput input;
  admit::AdmissionReading admission;
  kernel::Snapshot snapshot;
};

TEST_F(MetricsTest, HttpHistogramIsCumulativeAndInSeconds) {
  const std::string name = "weir_http_request_duration_seconds";
  EXPECT_EQ(value(name + "_bucket{path=\"/infer\",le=\"0.002\"}"), 0);
  EXPECT_EQ(value(name + "_bucket{path=\"/infer\",le=\"0.004\"}"), 2);
  EXPECT_EQ(value(name + "_bucket{path=\"/infer\",le=\"131.072\"}"), 2);
  EXPECT_EQ(value(name + "_bucket{path=\"/infer\",le=\"+Inf\"}"), 3);
  EXPECT_EQ(value(name + "_count{path=\"/infer\"}"), 3);
  EXPECT_EQ(value(name + "_sum{path=\"/infer\"}"), 1.5);
}

TEST_F(MetricsTest, EveryListenerHasItsRow) {
  input.http.listeners = {{3, 2, 1}, {5, 0, 4}};
  EXPECT_EQ(value("weir_listener_connections{thread=\"0\"}"), 3);
  EXPECT_EQ(value("weir_listener_connections{thread=\"1\"}"), 5);
  EXPECT_EQ(value("weir_listener_depth{thread=\"0\"}"), 2);
  EXPECT_EQ(value("weir_listener_taken_over_total{thread=\"1\"}"), 4);
}

TEST_F(MetricsTest, LabelsAreEscaped) {
  const std::string model = R"({model="a\"b\\c\nd")";
  EXPECT_EQ(value("weir_model_load_ratio" + model + "}"), 0.5);
  EXPECT_EQ(value("weir_model_state" + model + ",state=\"ready\"}"), 1);
  EXPECT_EQ(value("weir_model_state" + model + ",state=\"failed\"}"), 0);
  EXPECT_EQ(value("weir_model_requests_finished_total" + model + ",outcome=\"completed\"}"), 4);
  EXPECT_EQ(value("weir_model_requests_refused_total" + model + ",reason=\"queue_full\"}"), 6);
}

TEST_F(MetricsTest, ModelsTellWhetherTheyAreLoaded) {
  input.models[0].name = "m";
  input.models[0].state = model::ModelInfo::State::kWarming;
  EXPECT_EQ(value("weir_model_state{model=\"m\",state=\"warming\"}"), 1);
  EXPECT_EQ(value("weir_model_state{model=\"m\",state=\"ready\"}"), 0);
  EXPECT_EQ(value("weir_model_loads_total{model=\"m\"}"), 13);
  EXPECT_EQ(value("weir_model_load_failures_total{model=\"m\"}"), 14);
  EXPECT_EQ(value("weir_model_unloads_total{model=\"m\",cause=\"evicted\"}"), 15);
  EXPECT_EQ(value("weir_model_unloads_total{model=\"m\",cause=\"idle\"}"), 0);
  EXPECT_EQ(value("weir_model_memory_bytes{model=\"m\"}"), 16);
}

TEST_F(MetricsTest, ModelsTellOfTheirQueue) {
  input.models[0].name = "m";
  EXPECT_EQ(value("weir_model_requests_finished_total{model=\"m\",outcome=\"expired\"}"), 5);
  EXPECT_EQ(value("weir_model_requests_refused_total{model=\"m\",reason=\"deadline\"}"), 7);
  EXPECT_EQ(value("weir_model_queued_tokens{model=\"m\"}"), 8);
  EXPECT_EQ(value("weir_model_overdue{model=\"m\"}"), 9);
  EXPECT_EQ(value("weir_model_resting{model=\"m\"}"), 10);
  EXPECT_EQ(value("weir_model_promotions_total{model=\"m\"}"), 11);
  EXPECT_EQ(value("weir_model_decode_aborts_total{model=\"m\"}"), 12);
  EXPECT_EQ(value("weir_model_queue_wait_seconds_bucket{model=\"m\",le=\"0.002\"}"), 0);
  EXPECT_EQ(value("weir_model_queue_wait_seconds_bucket{model=\"m\",le=\"0.004\"}"), 1);
  EXPECT_EQ(value("weir_model_queue_wait_seconds_bucket{model=\"m\",le=\"+Inf\"}"), 2);
  EXPECT_DOUBLE_EQ(value("weir_model_queue_wait_seconds_sum{model=\"m\"}"), 180.003);
}

TEST_F(MetricsTest, KernelReadingsAreThere) {
  const std::string backend = "{service=\"llm\",backend=\"[::1]:9000\"";
  EXPECT_EQ(value("weir_service_picks_total{service=\"llm\",address=\"10.96.0.10:80\"}"), 20);
  EXPECT_EQ(value("weir_backend_in_flight" + backend + "}"), 5);
  EXPECT_EQ(value("weir_backend_weight" + backend + "}"), 0.25);
  EXPECT_EQ(value("weir_backend_state" + backend + ",state=\"active\"}"), 1);
  EXPECT_EQ(value("weir_backend_state" + backend + ",state=\"draining\"}"), 0);
  EXPECT_EQ(value("weir_backend_breaker_state" + backend + ",state=\"half_open\"}"), 1);
  EXPECT_EQ(value("weir_backend_breaker_state" + backend + ",state=\"closed\"}"), 0);
  EXPECT_EQ(value("weir_backend_breaker_level" + backend + "}"), 2);
  EXPECT_EQ(value("weir_backend_latency_seconds" + backend + "}"), 0.005);
  EXPECT_TRUE(std::isnan(value("weir_backend_min_rtt_seconds" + backend + "}"))) << "not known";
  EXPECT_EQ(value("weir_backend_load" + backend + "}"), 3.75);
  EXPECT_EQ(value("weir_backend_sent_bytes_total" + backend + "}"), 10);
  EXPECT_EQ(value("weir_kernel_observed_sockets"), 9);
  EXPECT_EQ(value("weir_kernel_gauge_corrections_total"), 1);
  EXPECT_EQ(value("weir_kernel_events_total{event=\"released\"}"), 12);
  EXPECT_EQ(value("weir_kernel_info{abi=\"2\",request_clock=\"skb\"}"), 1);
}

TEST_F(MetricsTest, ServicesSayHowTheyPick) {
  const std::string service = "{service=\"llm\",address=\"10.96.0.10:80\"";
  EXPECT_EQ(value("weir_service_info" + service + ",policy=\"p2c\",when_empty=\"refuse\"}"), 1);
  EXPECT_EQ(value("weir_service_backends" + service + "}"), 3);
  EXPECT_EQ(value("weir_service_backends_open" + service + "}"), 1);
  EXPECT_EQ(value("weir_service_rif_limit" + service + "}"), 2.5);
  EXPECT_EQ(value("weir_service_misses_total" + service + "}"), 2);
  EXPECT_EQ(value("weir_service_panic_picks_total" + service + "}"), 4);
  EXPECT_EQ(value("weir_service_backup_picks_total" + service + "}"), 6);
  EXPECT_EQ(value("weir_service_picks_total{service=\"llm.backup\",address=\"\"}"), 0);
}

// The families of numbers that are alike: a mistaken field shows as a wrong value.
TEST_F(MetricsTest, EveryCounterOfABackendIsItsOwn) {
  auto& backend = snapshot.backends[0];
  const std::vector<std::pair<std::uint64_t*, std::string>> counters = {
      {&backend.connects, "connects"},
      {&backend.direct, "direct_connects"},
      {&backend.adopted, "adopted_connections"},
      {&backend.established, "established"},
      {&backend.connect_failures, "connect_failures"},
      {&backend.refused, "connects_refused"},
      {&backend.timed_out, "connects_timed_out"},
      {&backend.resets, "resets"},
      {&backend.closes, "closes"},
      {&backend.mux, "mux_connections"},
      {&backend.idle_ended, "idle_connections_ended"},
      {&backend.requests, "requests"},
      {&backend.interim, "interim_responses"},
      {&backend.bytes_sent, "sent_bytes"},
      {&backend.bytes_received, "received_bytes"},
      {&backend.retransmits, "retransmitted_segments"},
      {&backend.rtos, "retransmission_timeouts"},
      {&backend.breaker_opens, "breaker_opens"}};
  std::uint64_t number = 100;
  for (const auto& [field, name] : counters) *field = ++number;
  number = 100;
  for (const auto& [field, name] : counters) {
    const std::string series =
        "weir_backend_" + name + "_total{service=\"llm\",backend=\"[::1]:9000\"}";
    EXPECT_EQ(value(series), static_cast<double>(++number)) << name;
  }
}

TEST_F(MetricsTest, EveryHistogramOfABackendIsItsOwn) {
  const std::vector<std::string> names = {"connect_duration", "time_to_first_byte",
                                          "request_duration", "rtt", "unread"};
  ASSERT_EQ(names.size(), std::size_t{WEIR_HIST_KINDS});
  auto histograms = std::make_shared<std::array<kernel::Histogram, WEIR_HIST_KINDS>>();
  for (std::size_t kind = 0; kind < names.size(); ++kind) {
    weir_hist hist{};
    hist.bucket[4] = {kind + 1, 0};
    (*histograms)[kind].add(hist);
  }
  snapshot.backends[0].histograms = histograms;
  for (std::size_t kind = 0; kind < names.size(); ++kind) {
    EXPECT_EQ(value("weir_backend_" + names[kind] +
                    "_seconds_count{service=\"llm\",backend=\"[::1]:9000\"}"),
              static_cast<double>(kind + 1));
  }
}

TEST_F(MetricsTest, HistogramsWithoutASampleAreNotShown) {
  const std::string text = render_metrics(input);
  EXPECT_NE(text.find("# TYPE weir_backend_rtt_seconds histogram\n"), std::string::npos);
  EXPECT_EQ(text.find("weir_backend_rtt_seconds_"), std::string::npos);
}

TEST_F(MetricsTest, KernelHistogramHasOneBucketPerOctave) {
  const std::string name = "weir_backend_time_to_first_byte_seconds";
  const std::string prefix = name + "_bucket{service=\"llm\",backend=\"[::1]:9000\",le=\"";
  std::vector<double> bounds;
  std::vector<double> counts;
  for (const std::string& line : lines_of(render_metrics(input))) {
    if (!line.starts_with(prefix)) continue;
    const std::string rest = line.substr(prefix.size());
    bounds.push_back(rest.starts_with("+Inf") ? INFINITY : std::stod(rest));
    counts.push_back(std::stod(rest.substr(rest.find("} ") + 2)));
  }
  ASSERT_EQ(bounds.size(), std::size_t{WEIR_HIST_OCTAVES});
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i) {
    const auto upper = kernel::Histogram::upper_bound(i * WEIR_HIST_SUB + WEIR_HIST_SUB - 1);
    EXPECT_DOUBLE_EQ(bounds[i], std::chrono::duration<double>(upper).count());
    EXPECT_EQ(counts[i], i == 0 ? 0 : 3) << i;
  }
  EXPECT_TRUE(std::isinf(bounds.back()));
  EXPECT_EQ(counts.back(), 6);
  const std::string labels = "{service=\"llm\",backend=\"[::1]:9000\"}";
  EXPECT_EQ(value(name + "_count" + labels), 6);
  EXPECT_DOUBLE_EQ(value(name + "_sum" + labels), 600.000015);
}

TEST_F(MetricsTest, WithoutKernelItsFamiliesAreLeftOut) {
  input.kernel = nullptr;
  const std::string text = render_metrics(input);
  EXPECT_EQ(text.find("weir_kernel"), std::string::npos);
  EXPECT_EQ(text.find("weir_backend"), std::string::npos);
  EXPECT_NE(text.find("weir_http_connections 0\n"), std::string::npos);
}

// The checks of `promtool check metrics`, as far as they matter here.
TEST_F(MetricsTest, TextIsWellFormed) {
  std::map<std::string, std::string> types;
  std::set<std::string> series;
  std::string family;
  for (const std::string& line : lines_of(render_metrics(input))) {
    if (line.starts_with("# HELP ")) {
      family = line.substr(7, line.find(' ', 7) - 7);
      continue;
    }
    if (line.starts_with("# TYPE ")) {
      ASSERT_EQ(line.substr(7, family.size()), family);
      ASSERT_TRUE(types.emplace(family, line.substr(8 + family.size())).second) << line;
      continue;
    }
    ASSERT_TRUE(line.starts_with(family)) << line;
    const std::string id = line.substr(0, line.rfind(' '));
    EXPECT_TRUE(series.insert(id).second) << id;
    EXPECT_EQ(family.ends_with("_total"), types[family] == "counter") << family;
  }
  std::vector<std::string> rendered;
  for (const auto& [name, type] : types) rendered.push_back(name + " " + type);
  std::set<std::string> catalogue;
  for (const MetricDescription& metric : metric_catalogue()) {
    catalogue.insert(std::string(metric.name) + " " + std::string(to_string(metric.type)));
  }
  EXPECT_EQ(std::set<std::string>(rendered.begin(), rendered.end()), catalogue);
}

TEST(MetricsDocument, SaysWhatTheCatalogueSays) {
  std::ifstream file("deploy/METRICS.md");
  ASSERT_TRUE(file.good()) << "run the tests from the top of the tree";
  std::set<std::string> documented;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| `weir_")) documented.insert(line);
  }
  std::set<std::string> in_code;
  for (const MetricDescription& metric : metric_catalogue()) {
    in_code.insert("| `" + std::string(metric.name) + "` | " + std::string(to_string(metric.type)) +
                   " | " + std::string(metric.unit) + " | " + std::string(metric.help) + " |");
  }
  for (const std::string& row : in_code)
    EXPECT_TRUE(documented.contains(row)) << "missing: " << row;
  for (const std::string& row : documented) EXPECT_TRUE(in_code.contains(row)) << "stale: " << row;
}

}  // namespace
}  // namespace weir::telemetry
