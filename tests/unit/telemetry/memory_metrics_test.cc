// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/memory_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace weir::telemetry {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(MemoryMetrics, EachPartHasItsOwnSeries) {
  model::ModelInfo loaded;
  loaded.name = "m";
  loaded.path = "m.gguf";
  loaded.thin_loads = 7;
  loaded.memory = {.mapped_bytes = 1,
                   .resident_bytes = 2,
                   .copied_bytes = 3,
                   .kv_bytes = 4,
                   .compute_bytes = 5,
                   .output_bytes = 6};
  model::ModelInfo unloaded;
  unloaded.name = "u";
  unloaded.path = "u.gguf";
  model::ModelInfo echo;
  echo.name = "echo";
  PrometheusText out;
  const std::vector models{loaded, unloaded, echo};
  render_memory_metrics(out, models);
  const std::string text = std::move(out).take();
  for (const char* line : {"weir_model_part_bytes{model=\"m\",part=\"mapped\"} 1\n",
                           "weir_model_part_bytes{model=\"m\",part=\"copied\"} 3\n",
                           "weir_model_part_bytes{model=\"m\",part=\"kv\"} 4\n",
                           "weir_model_part_bytes{model=\"m\",part=\"compute\"} 5\n",
                           "weir_model_part_bytes{model=\"m\",part=\"output\"} 6\n",
                           "weir_model_part_bytes{model=\"u\",part=\"mapped\"} 0\n",
                           "weir_model_resident_bytes{model=\"m\"} 2\n",
                           "weir_model_thin_loads_total{model=\"m\"} 7\n",
                           "weir_model_thin_loads_total{model=\"u\"} 0\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("resident_bytes{model=\"u\"")));
  EXPECT_THAT(text, Not(HasSubstr("echo")));
}

}  // namespace
}  // namespace weir::telemetry
