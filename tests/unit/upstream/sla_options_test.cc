// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/sla_options.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "agent/config/config_loader.h"

namespace weir::upstream {
namespace {

const std::string kTwoModels = "models: [{name: a, path: weir.yaml}, {name: b, path: weir.yaml}]\n";

TEST(SlaOptions, DefaultsAreFilledInAndPartsAreOffUntilEnabled) {
  const auto config =
      config::parse_config(kTwoModels + "sla: [{route: /infer}]", "deploy/config/weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto options = sla_options(config->sla(0));
  EXPECT_EQ(options.route, "/infer");
  EXPECT_FALSE(options.retry || options.adaptive_retry || options.fast_fail || options.degrade);
  EXPECT_EQ(options.budget_percent, 20);
}

TEST(SlaOptions, EnabledPartsAreAsTheFileSays) {
  using std::chrono::milliseconds;
  const auto config = config::parse_config(
      kTwoModels +
          "sla: [{retry: {enabled: true}, adaptive_retry: {enabled: true, after_ms: 70}, "
          "fast_fail: {enabled: true, backup_model: b, min_health: 0.25}, "
          "degrade: {enabled: true, default_text: later, cache_bytes: 100}}]",
      "deploy/config/weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto options = sla_options(config->sla(0));
  ASSERT_TRUE(options.retry && options.adaptive_retry && options.fast_fail && options.degrade);
  EXPECT_EQ(options.route, "");
  EXPECT_EQ(options.retry->max_attempts, 3U);
  EXPECT_EQ(options.retry->backoff, milliseconds(25));
  EXPECT_EQ(options.adaptive_retry->max_attempts, 2U);
  EXPECT_EQ(options.adaptive_retry->after, milliseconds(70));
  EXPECT_EQ(options.fast_fail->min_health, 0.25);
  EXPECT_EQ(options.fast_fail->backup_model, "b");
  EXPECT_EQ(options.degrade->cache_entries, 1024U);
  EXPECT_EQ(options.degrade->cache_bytes, 100U);
  EXPECT_EQ(options.degrade->default_text, "later");
}

}  // namespace
}  // namespace weir::upstream
