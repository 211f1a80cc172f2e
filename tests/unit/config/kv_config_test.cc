// SPDX-License-Identifier: Apache-2.0
//
// Model.kv_tokens, park_bytes, prefix_reuse and queue.max_kv_ratio.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/fixtures/model_config.h"

namespace weir::config {
namespace {

using testing::HasSubstr;

TEST(KvConfig, CellsAreReservedAndPrefixesReusedUnlessTheFileSaysOtherwise) {
  const auto config = with_model("path: weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_FALSE(config->models(0).has_kv_tokens());
  EXPECT_EQ(config->models(0).park_bytes(), 268'435'456U);
  EXPECT_TRUE(config->models(0).prefix_reuse());
  const auto other =
      with_model("path: weir.yaml, kv_tokens: 4096, park_bytes: 0, prefix_reuse: false");
  ASSERT_TRUE(other.ok()) << other.error().message;
  EXPECT_EQ(other->models(0).kv_tokens(), 4096U);
  EXPECT_EQ(other->models(0).park_bytes(), 0U);
  EXPECT_FALSE(other->models(0).prefix_reuse());
}

TEST(KvConfig, OneSequenceMustFit) {
  EXPECT_EQ(problem("path: weir.yaml, context_tokens: 512, kv_tokens: 512"), "accepted");
  EXPECT_THAT(problem("path: weir.yaml, context_tokens: 512, kv_tokens: 511"),
              HasSubstr("models[0].kv_tokens: is 511, less than context_tokens 512"));
  EXPECT_THAT(problem("path: weir.yaml, kv_tokens: 31"), HasSubstr("models[0].kv_tokens"));
}

TEST(KvConfig, OneShotWorkHasNoCells) {
  for (const std::string field : {"kv_tokens: 512", "park_bytes: 1", "prefix_reuse: true"}) {
    EXPECT_THAT(problem("executor: identity, " + field),
                HasSubstr("models[0]." + field.substr(0, field.find(':')) +
                          ": does not apply to executor identity"));
  }
}

TEST(KvConfig, WhatRequestsInProgressMayNeedIsAMultipleOfTheCache) {
  const auto config = with_model("path: weir.yaml, queue: {max_kv_ratio: 2.5}");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->models(0).queue().max_kv_ratio(), 2.5);
  EXPECT_FALSE(with_model("path: weir.yaml")->models(0).queue().has_max_kv_ratio());
  EXPECT_THAT(problem("path: weir.yaml, queue: {max_kv_ratio: 0.9}"),
              HasSubstr("models[0].queue.max_kv_ratio"));
  EXPECT_THAT(problem("executor: identity, queue: {max_kv_ratio: 1}"),
              HasSubstr("models[0].queue.max_kv_ratio: does not apply to executor identity"));
  EXPECT_THAT(problem("path: weir.yaml, task: embed, queue: {max_kv_ratio: 1}"),
              HasSubstr("models[0].queue.max_kv_ratio: applies to task generate only"));
}

}  // namespace
}  // namespace weir::config
