// SPDX-License-Identifier: Apache-2.0
//
// Model.queue: bounds, ageing, and what a file may not say about them.
#include <gtest/gtest.h>

#include <string>

#include "agent/config/config_loader.h"

namespace weir::config {
namespace {

const std::string kShipped = "deploy/config/weir.yaml";

/// The configuration of one model whose `queue` is `text`, a flow mapping.
auto with_queue(const std::string& text) {
  return parse_config("models:\n- name: m\n  path: weir.yaml\n  queue: " + text + "\n", kShipped);
}

std::string problem_with(const std::string& text) {
  const auto config = with_queue(text);
  return config.ok() ? "accepted" : config.error().message;
}

TEST(QueueConfig, HasTheDefaultsOfTheReference) {
  const auto config = parse_config("models: [{name: m, path: weir.yaml}]", kShipped);
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto& queue = config->models(0).queue();
  EXPECT_FALSE(queue.has_max_tokens());
  EXPECT_EQ(queue.ageing_ms(), 10'000U);
  EXPECT_TRUE(queue.levels().empty());
}

TEST(QueueConfig, KeepsWhatTheFileSays) {
  const auto config = with_queue(
      "{max_tokens: 1000000, ageing_ms: 0, levels: [{level: 0, max_requests: 5}, "
      "{level: 7, max_tokens: 400}]}");
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto& queue = config->models(0).queue();
  EXPECT_EQ(queue.max_tokens(), 1'000'000U);
  EXPECT_EQ(queue.ageing_ms(), 0U);
  ASSERT_EQ(queue.levels_size(), 2);
  EXPECT_TRUE(queue.levels(0).has_level());
  EXPECT_EQ(queue.levels(0).max_requests(), 5U);
  EXPECT_FALSE(queue.levels(0).has_max_tokens());
  EXPECT_EQ(queue.levels(1).level(), 7U);
}

TEST(QueueConfig, RefusesALevelGivenTwice) {
  EXPECT_EQ(problem_with("{levels: [{level: 3, max_requests: 1}, {level: 3, max_tokens: 1}]}"),
            kShipped +
                ":4:57: models[0].queue.levels[1].level: \"3\" is used twice, first by "
                "models[0].queue.levels[0].level");
}

TEST(QueueConfig, RefusesALevelWithoutNumberOrBound) {
  EXPECT_NE(problem_with("{levels: [{max_requests: 1}]}").find("queue.levels[0].level: is missing"),
            std::string::npos);
  EXPECT_NE(problem_with("{levels: [{level: 1}]}")
                .find("queue.levels[0]: bounds nothing: max_requests or max_tokens is needed"),
            std::string::npos);
  EXPECT_NE(problem_with("{levels: [{level: 8, max_requests: 1}]}").find("out of range (0..7)"),
            std::string::npos);
}

}  // namespace
}  // namespace weir::config
