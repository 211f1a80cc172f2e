// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/batch_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weir::telemetry {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(BatchMetrics, SaysSizesAndCausesOfOneShotModelsOnly) {
  model::ModelInfo engine;
  engine.name = "engine";
  model::ModelInfo echo;
  echo.name = "echo";
  echo.batches.emplace();
  echo.batches->add(1, schedule::BatchCause::kTimeout);
  echo.batches->add(5, schedule::BatchCause::kFull);
  echo.batches->add(4096, schedule::BatchCause::kFull);
  PrometheusText out;
  const std::vector models{engine, echo};
  render_batch_metrics(out, models);
  const std::string text = std::move(out).take();
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batches_total{model="echo",cause="full"} 2)"));
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batches_total{model="echo",cause="timeout"} 1)"));
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batch_size_bucket{model="echo",le="4"} 1)"));
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batch_size_bucket{model="echo",le="8"} 2)"));
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batch_size_sum{model="echo"} 4102)"));
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batch_size_count{model="echo"} 3)"));
  EXPECT_THAT(text, Not(HasSubstr(R"(weir_model_batch_fixed_seconds{)")));
  EXPECT_THAT(text, Not(HasSubstr(R"(weir_model_batch_token_bound{)")));
  EXPECT_THAT(text, Not(HasSubstr("\"engine\"")));
}

TEST(BatchMetrics, SaysWhatWasLearned) {
  model::ModelInfo echo;
  echo.name = "echo";
  echo.batches.emplace();
  echo.batches->step_time = {0.5, 0.25};
  echo.batches->token_bound = 144;
  PrometheusText out;
  render_batch_metrics(out, std::vector{echo});
  const std::string text = std::move(out).take();
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batch_fixed_seconds{model="echo"} 0.5)"));
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batch_item_seconds{model="echo"} 0.25)"));
  EXPECT_THAT(text, HasSubstr(R"(weir_model_batch_token_bound{model="echo"} 144)"));
}

}  // namespace
}  // namespace weir::telemetry
