// SPDX-License-Identifier: Apache-2.0
#include "agent/model/model_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <vector>

#include "agent/model/loaded_model.h"
#include "tests/unit/model/recording_listener.h"

namespace weir::model {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

constexpr std::array kWays = {Prefetch::kWillneed, Prefetch::kSequential, Prefetch::kPopulate};

/// Files on a disk, that can be made cold.
class ColdFile : public testing::Test {
 protected:
  ColdFile() { std::filesystem::create_directories(folder_); }
  ~ColdFile() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, std::uint64_t bytes) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << std::string(bytes, 'w');
    return path;
  }

  /// False: its pages stay, whatever is done. Pages that are being read cannot be dropped: first
  /// all are.
  static bool make_cold(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    for (std::vector<char> some(kMiB); in.read(some.data(), kMiB);) {
    }
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const bool cold = ::fsync(fd) == 0 && ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
    ::close(fd);
    return cold;
  }

  static std::shared_ptr<ModelFile> open(const std::vector<std::string>& paths) {
    auto file = ModelFile::open(paths);
    EXPECT_TRUE(file.ok()) << file.error().message;
    return file.ok() ? *file : nullptr;
  }

  // Not /tmp, which may be memory: from there files do not leave it.
  const std::string folder_ = "/var/tmp/weir-cold-file-" + std::to_string(::getpid());
};

TEST_F(ColdFile, IsReadByEachStrategyAndTellsHowFarItIs) {
  // Two parts, of which the last pages are not whole.
  const std::uint64_t first_bytes = 2 * ModelFile::kPieceBytes + 5;
  const std::string first = write("first", first_bytes);
  const std::string second = write("second", ModelFile::kPieceBytes / 2 + 7);
  const auto file = open({first, second});
  ASSERT_EQ(file->bytes(), first_bytes + ModelFile::kPieceBytes / 2 + 7);
  EXPECT_EQ(file->resident(), file->bytes());  // just written
  for (const Prefetch how : kWays) {
    ASSERT_TRUE(make_cold(first) && make_cold(second));
    if (file->resident() != 0U) GTEST_SKIP() << "files do not leave the memory here";
    std::vector<double> told;
    const Status read = file->prefetch(how, [&](double progress) {
      told.push_back(progress);
      return true;
    });
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_EQ(file->resident(), file->bytes());
    EXPECT_EQ(told.size(), 3U + 1U + 1U + 1U);  // each piece, and the end of each part
    EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
    EXPECT_EQ(told.front(), 0);
    EXPECT_EQ(told.back(), 1);
  }
}

TEST_F(ColdFile, IsLeftAloneWithoutPrefetch) {
  const std::string path = write("file", kMiB);
  const auto file = open({path});
  ASSERT_TRUE(make_cold(path));
  if (file->resident() != 0U) GTEST_SKIP() << "files do not leave the memory here";
  ASSERT_TRUE(file->prefetch(Prefetch::kNone, [](double) { return true; }).ok());
  EXPECT_EQ(file->resident(), 0U);
}

TEST_F(ColdFile, StopsBetweenTwoPieces) {
  const std::string path = write("file", 64 * ModelFile::kPieceBytes);
  const auto file = open({path});
  for (const Prefetch how : kWays) {
    ASSERT_TRUE(make_cold(path));
    if (file->resident() != 0U) GTEST_SKIP() << "files do not leave the memory here";
    int asked = 0;
    const Status read = file->prefetch(how, [&](double) { return ++asked < 3; });
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(read.error().code, Code::kCancelled);
    EXPECT_EQ(asked, 3);
    // Two pieces, and what the kernel reads ahead.
    EXPECT_GE(file->resident(), 2 * ModelFile::kPieceBytes);
    EXPECT_LT(file->resident(), file->bytes() / 2);
  }
}

TEST_F(ColdFile, MayBecomeShorterMeanwhile) {
  const std::string path = write("file", 4 * ModelFile::kPieceBytes);
  const auto file = open({path});
  std::filesystem::resize_file(path, kMiB);
  for (const Prefetch how : kWays) {
    EXPECT_TRUE(file->prefetch(how, [](double) { return true; }).ok());
    EXPECT_LT(file->resident(), file->bytes());
  }
}

TEST_F(ColdFile, IsLookedAtByAWorkerAndNotTooOften) {
  const std::string path = write("file", kMiB);
  const auto file = open({path});
  auto pool = schedule::WorkerPool::create({});
  ASSERT_TRUE(pool.ok());
  const TimePoint start{std::chrono::hours(1)};
  // What was accepted is run before another task: the pool has one worker.
  const auto settled = [&] {
    std::promise<void> ran;
    ASSERT_EQ((*pool)->submit([&] { ran.set_value(); }),
              schedule::WorkerPool::Submitted::kAccepted);
    ran.get_future().wait();
  };
  EXPECT_EQ(file->recently_resident(start, **pool), std::nullopt);
  settled();
  EXPECT_EQ(file->recently_resident(start, **pool), kMiB);
  ASSERT_TRUE(make_cold(path));
  if (file->resident() != 0U) GTEST_SKIP() << "files do not leave the memory here";
  const TimePoint soon = start + ModelFile::kLookEvery - std::chrono::nanoseconds(1);
  EXPECT_EQ(file->recently_resident(soon, **pool), kMiB);
  settled();
  EXPECT_EQ(file->recently_resident(soon, **pool), kMiB);
  const TimePoint later = start + ModelFile::kLookEvery;
  EXPECT_EQ(file->recently_resident(later, **pool), kMiB);
  settled();
  EXPECT_EQ(file->recently_resident(later, **pool), 0U);
}

TEST_F(ColdFile, WhatCannotBeOpenedIsNamed) {
  const auto missing = ModelFile::open({folder_ + "/none"});
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().message, folder_ + "/none: No such file or directory");
  const auto empty = ModelFile::open({write("empty", 0)});
  ASSERT_FALSE(empty.ok());
  EXPECT_EQ(empty.error().message, folder_ + "/empty: the file is empty");
}

// ---- through a load -----------------------------------------------------------------------------

TEST_F(ColdFile, AModelIsLoadedWhenItsPagesAreThere) {
  const std::string path = folder_ + "/model.gguf";
  std::filesystem::copy_file(kShippedModel, path);
  for (const Prefetch how : kWays) {
    ASSERT_TRUE(make_cold(path));
    ModelOptions options = shipped(2);
    options.path = path;
    options.prefetch = how;
    options.ready_residency = 1;
    const auto checked = check_gguf_file(path);
    ASSERT_TRUE(checked.ok()) << checked.error().message;
    std::vector<float> told;
    const auto weights = LoadedModel::load_weights(options, *checked, [&](float progress) {
      told.push_back(progress);
      return true;
    });
    ASSERT_TRUE(weights.ok()) << weights.error().message;
    EXPECT_FALSE(weights->thin);
    EXPECT_EQ(weights->file->resident(), checked->bytes);
    EXPECT_EQ(weights->file_bytes, checked->bytes);
    EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
    EXPECT_EQ(told.back(), 1.0F);
  }
}

TEST_F(ColdFile, ALoadIsGivenUpWhileItReads) {
  const std::string path = folder_ + "/model.gguf";
  std::filesystem::copy_file(kShippedModel, path);
  ModelOptions options = shipped(2);
  options.path = path;
  const auto loaded = LoadedModel::load(options, [](float) { return false; });
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().message, path + ": the load was given up");
}

}  // namespace
}  // namespace weir::model
