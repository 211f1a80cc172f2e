// SPDX-License-Identifier: Apache-2.0
//
// Model.prefetch, ready_residency and repack.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/fixtures/model_config.h"

namespace weir::config {
namespace {

using testing::HasSubstr;

TEST(LoadConfig, FilesAreReadAheadUnlessTheFileSaysOtherwise) {
  const auto config = with_model("path: weir.yaml");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->models(0).prefetch(), weir::v1::Model::WILLNEED);
  EXPECT_EQ(config->models(0).ready_residency(), 0.9);
  EXPECT_TRUE(config->models(0).repack());
  const auto other =
      with_model("path: weir.yaml, prefetch: populate, ready_residency: 1, repack: false");
  ASSERT_TRUE(other.ok()) << other.error().message;
  EXPECT_EQ(other->models(0).prefetch(), weir::v1::Model::POPULATE);
  EXPECT_EQ(other->models(0).ready_residency(), 1);
  EXPECT_FALSE(other->models(0).repack());
  EXPECT_EQ(problem("path: weir.yaml, prefetch: sequential"), "accepted");
  EXPECT_EQ(problem("path: weir.yaml, prefetch: none"), "accepted");
}

TEST(LoadConfig, WrongValuesAreNamed) {
  EXPECT_THAT(problem("path: weir.yaml, prefetch: all"), HasSubstr("models[0].prefetch"));
  EXPECT_THAT(problem("path: weir.yaml, ready_residency: 1.1"),
              HasSubstr("models[0].ready_residency"));
  EXPECT_THAT(problem("path: weir.yaml, prefetch: none, ready_residency: 0.5"),
              HasSubstr("models[0].ready_residency: does not apply without prefetch"));
  for (const std::string field : {"prefetch: none", "ready_residency: 1", "repack: true"}) {
    EXPECT_THAT(problem("executor: identity, " + field),
                HasSubstr("models[0]." + field.substr(0, field.find(':')) +
                          ": does not apply to executor identity"));
  }
}

}  // namespace
}  // namespace weir::config
