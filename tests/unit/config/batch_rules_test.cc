// SPDX-License-Identifier: Apache-2.0
//
// Model.executor and Model.batch: defaults, and what a file may not say about them.
#include "agent/config/batch_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "agent/config/config_loader.h"

namespace weir::config {
namespace {

using testing::HasSubstr;

const std::string kShipped = "deploy/config/weir.yaml";

/// The configuration of one model, whose further fields are `text`, a part of a flow mapping.
auto with_model(const std::string& text) {
  return parse_config("models: [{name: m, " + text + "}]", kShipped);
}

auto with_batch(const std::string& text) {
  return with_model("executor: identity, batch: {" + text + "}");
}

std::string problem(const Result<weir::v1::Config>& config) {
  return config.ok() ? "accepted" : config.error().message;
}

TEST(BatchRules, IdentityNeedsNoPathAndHasTheDefaultsOfTheReference) {
  const auto config = with_model("executor: identity");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto& model = config->models(0);
  EXPECT_EQ(model.path(), "");
  EXPECT_EQ(model.batch().batch_timeout_micros(), 5000U);
  EXPECT_FALSE(model.batch().has_instances());  // 1, or by the threads
  EXPECT_EQ(model.batch().mode(), weir::v1::FIXED);
  EXPECT_EQ(max_batch_size(model.batch()), 32U);
  EXPECT_FALSE(model.identity().busy());
}

TEST(BatchRules, EachExecutorHasItsOwnFields) {
  EXPECT_THAT(problem(with_model("executor: identity, path: weir.yaml")),
              HasSubstr("models[0].path: does not apply to executor identity"));
  EXPECT_THAT(problem(with_model("executor: identity, max_sequences: 3")),
              HasSubstr("models[0].max_sequences: does not apply"));
  EXPECT_THAT(problem(with_model("executor: identity, preload: true")),
              HasSubstr("models[0].preload: does not apply"));
  EXPECT_THAT(problem(with_model("executor: identity, instances: 2")),
              HasSubstr("instances: does not apply to executor identity: batch.instances does"));
  EXPECT_THAT(problem(with_model("executor: identity, trial: never")),
              HasSubstr("models[0].trial: does not apply"));
  EXPECT_THAT(problem(with_model("executor: llama")), HasSubstr("models[0].path: is missing"));
  EXPECT_THAT(problem(with_model("path: weir.yaml, identity: {busy: true}")),
              HasSubstr("models[0].identity: applies to executor identity only"));
  EXPECT_THAT(problem(with_model("path: weir.yaml, batch: {instances: 2}")),
              HasSubstr("models[0].batch: applies to one-shot work only"));
}

TEST(BatchRules, ThePreferredSizeIsWithinTheLargest) {
  EXPECT_EQ(problem(with_batch("preferred_batch_size: 32")), "accepted");
  EXPECT_THAT(problem(with_batch("preferred_batch_size: 33")),
              HasSubstr("preferred_batch_size: 33 is more than max_batch_size (32)"));
  EXPECT_THAT(problem(with_batch("max_batch_size: 4, preferred_batch_size: 5")),
              HasSubstr("5 is more than max_batch_size (4)"));
  EXPECT_THAT(problem(with_batch("mode: learned, preferred_batch_size: 5")),
              HasSubstr("applies to mode fixed only"));
}

TEST(BatchRules, LevelsRiseAndTheLastIsOpen) {
  const auto levels = [](const std::string& first, const std::string& second) {
    return with_batch("mode: levels, levels: [{max_batch_size: 4, batch_timeout_micros: 9" + first +
                      "}, {max_batch_size: 8, batch_timeout_micros: 5" + second + "}, " +
                      "{max_batch_size: 64, batch_timeout_micros: 1}]");
  };
  const auto config = levels(", below_waiting: 5", ", below_waiting: 20");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(max_batch_size(config->models(0).batch()), 64U);
  EXPECT_THAT(problem(levels(", below_waiting: 5", ", below_waiting: 5")),
              HasSubstr("levels[1].below_waiting: 5 does not rise above 5"));
  EXPECT_THAT(problem(levels("", ", below_waiting: 5")),
              HasSubstr("levels[0].below_waiting: is missing"));
  EXPECT_THAT(problem(with_batch("mode: levels, levels: [{max_batch_size: 4, "
                                 "batch_timeout_micros: 9, below_waiting: 5}]")),
              HasSubstr("must be left out in the last level"));
  EXPECT_THAT(problem(with_batch("mode: levels, levels: [{batch_timeout_micros: 9}]")),
              HasSubstr("levels[0].max_batch_size: is missing"));
  EXPECT_THAT(problem(with_batch("mode: levels, max_batch_size: 4, levels: [{max_batch_size: 5, "
                                 "batch_timeout_micros: 9}]")),
              HasSubstr("5 is more than models[0].batch.max_batch_size (4)"));
}

TEST(BatchRules, LevelsBelongToTheirMode) {
  EXPECT_THAT(problem(with_batch("levels: [{max_batch_size: 4, batch_timeout_micros: 9}]")),
              HasSubstr("levels: applies to mode levels only"));
  EXPECT_THAT(problem(with_batch("mode: levels, batch_timeout_micros: 9")),
              HasSubstr("does not apply to mode levels"));
}

TEST(BatchRules, TheDefaultTableIsUsableWithoutASize) {
  const auto config = with_batch("mode: levels");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(max_batch_size(config->models(0).batch()), 100U);
  const auto capped = with_batch("mode: levels, max_batch_size: 16");
  ASSERT_TRUE(capped.ok()) << capped.error().message;
  EXPECT_EQ(max_batch_size(capped->models(0).batch()), 16U);
}

TEST(BatchRules, TextsAreBatchedAsLearnedUnlessTheFileSaysOtherwise) {
  const auto config = with_model("path: weir.yaml, task: embed");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto& model = config->models(0);
  EXPECT_EQ(batch_mode(model), weir::v1::LEARNED);
  EXPECT_EQ(model.batch().max_batch_tokens(), 256U);
  EXPECT_EQ(max_batch_size(model.batch()), 32U);
  const auto fixed = with_model(
      "path: weir.yaml, task: score, batch: {mode: fixed, preferred_batch_size: 3, instances: 2}");
  ASSERT_TRUE(fixed.ok()) << fixed.error().message;
  EXPECT_EQ(batch_mode(fixed->models(0)), weir::v1::FIXED);
  EXPECT_EQ(batch_mode(with_model("executor: identity")->models(0)), weir::v1::FIXED);
}

TEST(BatchRules, EachTaskHasItsOwnFields) {
  EXPECT_THAT(problem(with_model("path: weir.yaml, task: embed, max_sequences: 3")),
              HasSubstr("models[0].max_sequences: applies to task generate only"));
  EXPECT_THAT(
      problem(with_model("path: weir.yaml, task: embed, instances: 2")),
      HasSubstr("models[0].instances: applies to task generate only: batch.instances does"));
  EXPECT_THAT(problem(with_model("path: weir.yaml, task: score, prefix_reuse: false")),
              HasSubstr("models[0].prefix_reuse: applies to task generate only"));
  EXPECT_THAT(problem(with_model("path: weir.yaml, task: embed, batch: {max_batch_size: 257}")),
              HasSubstr("models[0].batch.max_batch_size: is 257: at most 256 texts"));
  EXPECT_THAT(problem(with_model("path: weir.yaml, task: embed, batch: {preferred_batch_size: 3}")),
              HasSubstr("models[0].batch.preferred_batch_size: applies to mode fixed only"));
  EXPECT_THAT(problem(with_model("executor: identity, task: embed")),
              HasSubstr("models[0].task: does not apply to executor identity"));
  EXPECT_THAT(problem(with_batch("max_batch_tokens: 64")),
              HasSubstr("models[0].batch.max_batch_tokens: does not apply"));
  EXPECT_THAT(problem(with_model("path: weir.yaml, task: embedding")),
              HasSubstr("is not one of generate, embed, score"));
}

}  // namespace
}  // namespace weir::config
