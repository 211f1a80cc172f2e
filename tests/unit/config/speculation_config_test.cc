// SPDX-License-Identifier: Apache-2.0
//
// Model.speculation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/fixtures/model_config.h"

namespace weir::config {
namespace {

using testing::HasSubstr;

TEST(SpeculationConfig, IsOffUnlessTheFileSaysOtherwise) {
  const auto config = with_model("path: weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->models(0).speculation().mode(), weir::v1::Speculation::OFF);
  const auto fewer = with_model("path: weir.yaml, speculation: {mode: auto, max_draft_tokens: 4}");
  ASSERT_TRUE(fewer.ok()) << fewer.error().message;
  EXPECT_EQ(fewer->models(0).speculation().max_draft_tokens(), 4U);
  const auto on = with_model("path: weir.yaml, speculation: {mode: auto}");
  ASSERT_TRUE(on.ok()) << on.error().message;
  EXPECT_EQ(on->models(0).speculation().mode(), weir::v1::Speculation::AUTO);
  EXPECT_EQ(on->models(0).speculation().max_draft_tokens(), 16U);
}

TEST(SpeculationConfig, SaysWhatIsWrong) {
  EXPECT_THAT(problem("path: weir.yaml, speculation: {mode: auto, max_draft_tokens: 65}"),
              HasSubstr("models[0].speculation.max_draft_tokens"));
  EXPECT_THAT(problem("path: weir.yaml, speculation: {mode: auto, max_draft_tokens: 0}"),
              HasSubstr("models[0].speculation.max_draft_tokens"));
  EXPECT_THAT(problem("path: weir.yaml, speculation: {mode: on}"),
              HasSubstr("models[0].speculation.mode"));
  EXPECT_THAT(problem("path: weir.yaml, speculation: {mode: off, max_draft_tokens: 4}"),
              HasSubstr("models[0].speculation.max_draft_tokens: applies to mode auto only"));
  EXPECT_THAT(problem("executor: identity, speculation: {mode: off}"),
              HasSubstr("models[0].speculation: does not apply to executor identity"));
}

}  // namespace
}  // namespace weir::config
