// SPDX-License-Identifier: Apache-2.0
//
// The registry section, and what models say of when they are unloaded.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "agent/config/config_loader.h"

namespace weir::config {
namespace {

const std::string kShipped = "deploy/config/weir.yaml";

std::string problem_with(const std::string& text) {
  const auto config = parse_config(text, kShipped);
  return config.ok() ? "accepted" : config.error().message;
}

TEST(RegistryConfig, WithoutItNothingIsUnloadedOrLookedFor) {
  const auto config = parse_config("models: [{name: m, path: weir.yaml}]", kShipped);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_FALSE(config->models(0).has_keep_alive_seconds());
  EXPECT_FALSE(config->registry().has_memory_bytes());
  EXPECT_FALSE(config->registry().has_keep_alive_seconds());
  EXPECT_EQ(config->registry().model_dir(), "");
  EXPECT_EQ(config->registry().poll_seconds(), 0U);
  EXPECT_EQ(config->serve().admin_api(), weir::v1::LOOPBACK);
}

TEST(RegistryConfig, FolderStartsAtThatOfTheFile) {
  const auto config = parse_config("registry: {model_dir: ../models}", kShipped);
  ASSERT_TRUE(config.ok()) << config.error().message;
  const std::string here = std::filesystem::current_path().string();
  EXPECT_EQ(config->registry().model_dir(), here + "/deploy/models");
  EXPECT_EQ(problem_with("registry: {model_dir: weir.yaml}"),
            kShipped + ":1:23: registry.model_dir: \"" + here +
                "/deploy/config/weir.yaml\" cannot be read: not a folder");
  EXPECT_NE(problem_with("registry: {model_dir: nowhere}").find("No such file"), std::string::npos);
}

TEST(RegistryConfig, ModelsOfAFolderMayBeNamedElsewhere) {
  const std::string limits = "admission: {rate_limits: [{model: any, requests_per_second: 1}]}\n";
  EXPECT_NE(problem_with(limits).find("there is no model \"any\""), std::string::npos);
  EXPECT_EQ(problem_with(limits + "registry: {model_dir: ../models}"), "accepted");
}

TEST(RegistryConfig, IdentityHasNothingToUnload) {
  EXPECT_NE(problem_with("models: [{name: m, executor: identity, keep_alive_seconds: 1}]")
                .find("models[0].keep_alive_seconds: does not apply to executor identity"),
            std::string::npos);
}

TEST(RegistryConfig, WhoMayAdministrateIsOneOfThree) {
  EXPECT_EQ(problem_with("serve: {admin_api: anyone}"), "accepted");
  EXPECT_NE(problem_with("serve: {admin_api: all}")
                .find("\"all\" is not one of loopback, anyone, nobody"),
            std::string::npos);
}

}  // namespace
}  // namespace weir::config
