// SPDX-License-Identifier: Apache-2.0
//
// On a made-up /proc and /sys/fs/cgroup.
#include "agent/base/usable_cpus.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "agent/base/own_cgroup.h"

namespace weir {
namespace {

class CpuQuota : public testing::Test {
 protected:
  void SetUp() override {
    root = std::filesystem::temp_directory_path() / ("weir-cpu-quota-" + std::to_string(getpid()));
    std::filesystem::remove_all(root);
    write("proc/self/mounts",
          "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
    write("proc/self/cgroup", "0::/pods/one\n");
  }
  void TearDown() override { std::filesystem::remove_all(root); }

  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((root / file).parent_path());
    std::ofstream(root / file) << text;
  }
  [[nodiscard]] std::optional<double> quota() const { return cpu_quota(root.string()); }

  std::filesystem::path root;
};

TEST_F(CpuQuota, NoneWhereNothingBounds) {
  EXPECT_EQ(quota(), std::nullopt);
  write("sys/fs/cgroup/pods/one/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  EXPECT_EQ(cpu_quota((root / "nowhere").string()), std::nullopt);
}

TEST_F(CpuQuota, IsTheLeastOnTheWayUp) {
  write("sys/fs/cgroup/pods/one/cpu.max", "300000 100000\n");
  EXPECT_EQ(quota(), 3.0);
  write("sys/fs/cgroup/pods/cpu.max", "75000 50000\n");
  EXPECT_EQ(quota(), 1.5);
  write("sys/fs/cgroup/pods/two/cpu.max", "10000 100000\n");  // a neighbour's
  EXPECT_EQ(quota(), 1.5);
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");  // as the top of a container's namespace has
  EXPECT_EQ(quota(), 0.5);
}

TEST_F(CpuQuota, OfTheTopOfItsNamespace) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(quota(), 2.0);
}

// The path is that on the host, of which the container sees its own part only.
TEST_F(CpuQuota, OfTheMountWhereThePathIsNotToBeSeen) {
  write("proc/self/cgroup", "0::/kubepods/pod1/c1\n");
  write("sys/fs/cgroup/cpu.max", "250000 100000\n");
  EXPECT_EQ(quota(), 2.5);
}

TEST_F(CpuQuota, OfVersionOne) {
  write("proc/self/mounts",
        "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n"
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n");
  write("proc/self/cgroup", "5:cpuset:/wrong\n4:cpu,cpuacct:/docker/one\n0::/\n");
  write("sys/fs/cgroup/cpu,cpuacct/docker/one/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/docker/one/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  write("sys/fs/cgroup/cpu,cpuacct/docker/one/cpu.cfs_quota_us", "350000\n");
  EXPECT_EQ(quota(), 3.5);
  write("sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "100000\n");
  write("sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(quota(), 2.0);
}

TEST_F(CpuQuota, NoneInFilesThatSaySomethingElse) {
  write("sys/fs/cgroup/pods/one/cpu.max", "many 100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  write("sys/fs/cgroup/pods/one/cpu.max", "100000 0\n");
  EXPECT_EQ(quota(), std::nullopt);
  write("sys/fs/cgroup/pods/one/cpu.max", "");
  EXPECT_EQ(quota(), std::nullopt);
  write("proc/self/cgroup", "nothing that one could read");
  write("sys/fs/cgroup/pods/one/cpu.max", "100000 100000\n");
  EXPECT_EQ(quota(), std::nullopt);
}

TEST(UsableCpus, AreWholeOnesOfTheQuotaAndOfTheMask) {
  EXPECT_EQ(whole_cpus(8, std::nullopt), 8U);
  EXPECT_EQ(whole_cpus(8, 16.0), 8U);
  EXPECT_EQ(whole_cpus(8, 3.0), 3U);
  EXPECT_EQ(whole_cpus(8, 3.9), 3U);
  EXPECT_EQ(whole_cpus(8, 0.2), 1U);
  EXPECT_EQ(whole_cpus(0, std::nullopt), 1U);
}

TEST(UsableCpus, FollowTheAffinityMaskOfTheThread) {
  cpu_set_t before;
  CPU_ZERO(&before);
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_LE(usable_cpus(), static_cast<std::uint32_t>(CPU_COUNT(&before)));
  std::thread pinned([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &before)) continue;
      CPU_SET(cpu, &one);
      break;
    }
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(usable_cpus(), 1U);
  });
  pinned.join();
}

TEST_F(CpuQuota, ThePathGoesUpToTheMountAndNoFurther) {
  const auto path = own_cgroup(root.string());
  ASSERT_TRUE(path);
  const auto top = root / "sys/fs/cgroup";
  const std::vector<std::filesystem::path> upwards{top / "pods/one", top / "pods", top};
  EXPECT_EQ(path->upwards(), upwards);
}

}  // namespace
}  // namespace weir
