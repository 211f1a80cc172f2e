// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/engine_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace weir::telemetry {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(EngineMetrics, EachCountHasItsOwnFamily) {
  model::ModelInfo engine;
  engine.name = "m";
  engine.engine = {.kv_cells = 1,
                   .kv_cells_in_use = 2,
                   .kv_cells_kept = 3,
                   .parked = 4,
                   .parked_bytes = 5,
                   .parks = 6,
                   .restores = 7,
                   .recomputes = 8,
                   .recomputed_tokens = 9,
                   .park_drops = 10,
                   .preemptions = 11,
                   .pauses = 12,
                   .prefix_lookups = 13,
                   .prefix_hits = 14,
                   .prefix_tokens = 15,
                   .kept_evictions = 16,
                   .draft_tokens = 17,
                   .draft_hits = 18,
                   .sliced_prompts = 19,
                   .sliced_drops = 20};
  engine.instances = {{31, 32, 33}, {34, 35, 36}};
  model::ModelInfo echo;
  echo.name = "echo";
  echo.batches.emplace();
  PrometheusText out;
  const std::vector models{engine, echo};
  render_engine_metrics(out, models);
  const std::string text = std::move(out).take();
  const std::vector<std::string> names = {"kv_cells",
                                          "kv_cells_in_use",
                                          "kv_cells_kept",
                                          "parked",
                                          "parked_bytes",
                                          "parks_total",
                                          "park_restores_total",
                                          "park_recomputes_total",
                                          "recomputed_tokens_total",
                                          "park_drops_total",
                                          "preemptions_total",
                                          "pauses_total",
                                          "prefix_lookups_total",
                                          "prefix_hits_total",
                                          "prefix_tokens_total",
                                          "kept_evictions_total",
                                          "draft_tokens_total",
                                          "draft_hits_total",
                                          "sliced_prompts_total",
                                          "sliced_drops_total"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_THAT(text, HasSubstr("weir_model_" + names[i] + "{model=\"m\"} " +
                                std::to_string(i + 1) + "\n"));
  }
  for (const char* const line :
       {"running{model=\"m\",instance=\"0\"} 31\n", "running{model=\"m\",instance=\"1\"} 34\n",
        "decode_steps_total{model=\"m\",instance=\"0\"} 32\n",
        "completion_tokens_total{model=\"m\",instance=\"1\"} 36\n"}) {
    EXPECT_THAT(text, HasSubstr(std::string("weir_model_instance_") + line));
  }
  EXPECT_THAT(text, Not(HasSubstr("echo")));
}

TEST(EngineMetrics, InstancesOfVersionsAreAddedUpByTheirNumbers) {
  model::ModelInfo sum;
  sum.instances = {{1, 10, 100}};
  model::ModelInfo version;
  version.instances = {{2, 20, 200}, {3, 30, 300}};
  sum.add_counts(version);
  ASSERT_EQ(sum.instances.size(), 2U);
  EXPECT_EQ(sum.instances[0].running, 3U);
  EXPECT_EQ(sum.instances[0].decode_steps, 30U);
  EXPECT_EQ(sum.instances[0].completion_tokens, 300U);
  EXPECT_EQ(sum.instances[1].running, 3U);
}

TEST(EngineMetrics, VersionsOfAModelAreAddedUp) {
  model::EngineReading sum{.kv_cells = 1, .parks = 2, .prefix_tokens = 3, .draft_hits = 4};
  sum.add({.kv_cells = 10,
           .parks = 20,
           .restores = 5,
           .prefix_tokens = 30,
           .draft_tokens = 50,
           .draft_hits = 40});
  EXPECT_EQ(sum.kv_cells, 11U);
  EXPECT_EQ(sum.parks, 22U);
  EXPECT_EQ(sum.restores, 5U);
  EXPECT_EQ(sum.prefix_tokens, 33U);
  EXPECT_EQ(sum.draft_tokens, 50U);
  EXPECT_EQ(sum.draft_hits, 44U);
  sum.clear_gauges();
  EXPECT_EQ(sum.kv_cells, 0U);
  EXPECT_EQ(sum.parks, 22U);
}

}  // namespace
}  // namespace weir::telemetry
