// SPDX-License-Identifier: Apache-2.0
//
// On a made-up /proc and /sys/fs/cgroup.
#include "agent/admit/memory_limit.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace weir::admit {
namespace {

class MemoryLimit : public testing::Test {
 protected:
  void SetUp() override {
    root =
        std::filesystem::temp_directory_path() / ("weir-memory-limit-" + std::to_string(getpid()));
    std::filesystem::remove_all(root);
    write("proc/meminfo", "MemTotal:       24000 kB\nMemAvailable:   8000 kB\n");
    write("proc/self/mounts",
          "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
    write("proc/self/cgroup", "4:memory:/old\n0::/pods/one\n");
  }
  void TearDown() override { std::filesystem::remove_all(root); }

  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text;
  }
  [[nodiscard]] std::uint64_t left() const {
    const auto left = memory_left(root.string());
    EXPECT_TRUE(left.ok()) << left.error().message;
    return left.ok() ? left->bytes : 0;
  }

  std::filesystem::path root;
};

TEST_F(MemoryLimit, WithoutACgroupLimitItIsTheMachines) {
  EXPECT_EQ(left(), 8000U * 1024);
  write("sys/fs/cgroup/pods/one/memory.max", "max\n");
  write("sys/fs/cgroup/pods/one/memory.current", "5000\n");
  EXPECT_EQ(left(), 8000U * 1024);
}

TEST_F(MemoryLimit, TheTightestCgroupOnTheWayUpDecides) {
  write("sys/fs/cgroup/pods/one/memory.max", "6000000\n");
  write("sys/fs/cgroup/pods/one/memory.current", "1000000\n");
  EXPECT_EQ(left(), 5'000'000U);
  write("sys/fs/cgroup/pods/memory.max", "9000000\n");
  write("sys/fs/cgroup/pods/memory.current", "7000000\n");
  EXPECT_EQ(left(), 2'000'000U);
  EXPECT_EQ(memory_left(root.string())->source, (root / "sys/fs/cgroup/pods/memory.max").string());
  write("sys/fs/cgroup/pods/memory.current", "9500000\n");
  EXPECT_EQ(left(), 0U);
}

TEST_F(MemoryLimit, ACgroupNamespaceShowsItsOwnTop) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", "3000000\n");
  write("sys/fs/cgroup/memory.current", "1000000\n");
  EXPECT_EQ(left(), 2'000'000U);
}

TEST_F(MemoryLimit, LimitIsTheLeastOfAllWhateverIsInUse) {
  write("proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 10 kB\n");
  EXPECT_EQ(memory_limit(root.string())->bytes, 8'192'000U);
  write("proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
  write("proc/self/cgroup", "0::/pods/one\n");
  write("sys/fs/cgroup/pods/one/memory.max", "max\n");
  EXPECT_EQ(memory_limit(root.string())->source, (root / "proc/meminfo").string());
  write("sys/fs/cgroup/pods/memory.max", "3000000\n");
  write("sys/fs/cgroup/pods/memory.current", "2999999\n");
  const auto limit = memory_limit(root.string());
  ASSERT_TRUE(limit.ok());
  EXPECT_EQ(limit->bytes, 3'000'000U);
  EXPECT_EQ(limit->source, (root / "sys/fs/cgroup/pods/memory.max").string());
}

TEST_F(MemoryLimit, WithoutMeminfoItIsAnError) {
  EXPECT_FALSE(memory_limit((root / "none").string()).ok());
  write("proc/meminfo", "nonsense\n");
  const auto left = memory_left(root.string());
  ASSERT_FALSE(left.ok());
  EXPECT_EQ(left.error().code, Code::kIo);
}

TEST_F(MemoryLimit, PressureIsThatOfTheCgroupOrElseOfTheMachine) {
  EXPECT_EQ(pressure_file(root.string()), std::nullopt);
  write("proc/pressure/memory", "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\n");
  EXPECT_EQ(pressure_file(root.string()), (root / "proc/pressure/memory").string());
  write("sys/fs/cgroup/pods/one/memory.pressure",
        "some avg10=37.25 avg60=2.00 avg300=0.00 total=9\nfull avg10=9.00 avg60=0.00\n");
  const auto file = pressure_file(root.string());
  ASSERT_TRUE(file.has_value());
  EXPECT_EQ(read_some_avg10(*file), 37.25);
}

TEST_F(MemoryLimit, WhatIsNoPressureIsUnset) {
  EXPECT_EQ(some_avg10(""), std::nullopt);
  EXPECT_EQ(some_avg10("some avg10=x"), std::nullopt);
  EXPECT_EQ(some_avg10("full avg10=1.00"), std::nullopt);
  EXPECT_EQ(some_avg10("some avg10=0.00 avg60"), 0.0);
  EXPECT_EQ(read_some_avg10((root / "none").string()), std::nullopt);
}

TEST(MemoryLimitHere, ThisMachineHasSome) {
  const auto left = memory_left();
  ASSERT_TRUE(left.ok()) << left.error().message;
  EXPECT_GT(left->bytes, 0U);
}

}  // namespace
}  // namespace weir::admit
