// SPDX-License-Identifier: Apache-2.0
#include "agent/model/loaded_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "agent/model/gguf_vetting.h"

namespace weir::model {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

TEST(DefaultThreads, GrowsWithTheFileUpToTheCpus) {
  EXPECT_EQ(default_threads(0, 8), 1U);
  EXPECT_EQ(default_threads(1 * kMiB, 8), 1U);
  EXPECT_EQ(default_threads(31 * kMiB, 8), 1U);
  EXPECT_EQ(default_threads(32 * kMiB, 8), 2U);
  EXPECT_EQ(default_threads(400 * kMiB, 8), 8U);
  EXPECT_EQ(default_threads(400 * kMiB, 1), 1U);
}

TEST(LoadedModel, CountsEachRefusalOfAFileOnce) {
  const std::string path = std::filesystem::temp_directory_path() /
                           ("weir-no-model-" + std::to_string(::getpid()) + ".gguf");
  std::ofstream(path, std::ios::binary) << "version https://git-lfs.github.com/spec/v1";
  ModelOptions options;
  options.path = path;
  const auto before = gguf_vetting().reading().refused_by_check;
  const auto loaded = LoadedModel::load(options, [](float) { return true; });
  std::filesystem::remove(path);
  ASSERT_FALSE(loaded.ok());
  EXPECT_THAT(loaded.error().message, testing::HasSubstr("not a GGUF file"));
  EXPECT_EQ(gguf_vetting().reading().refused_by_check, before + 1);
}

}  // namespace
}  // namespace weir::model
