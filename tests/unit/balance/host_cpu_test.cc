// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/host_cpu.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace weir::balance {
namespace {

class HostCpuTest : public testing::Test {
 protected:
  HostCpuTest() {
    proc = std::filesystem::temp_directory_path() / ("weir-proc-" + std::to_string(getpid()));
    std::filesystem::create_directory(proc);
  }
  ~HostCpuTest() override { std::filesystem::remove_all(proc); }
  std::optional<double> look(const std::string& stat) {
    std::ofstream(proc / "stat") << stat;
    return cpu.sample_percent();
  }
  std::filesystem::path proc;
  HostCpu cpu{(std::filesystem::temp_directory_path() / ("weir-proc-" + std::to_string(getpid())))};
};

TEST_F(HostCpuTest, IsTheBusyPartSinceTheLastLook) {
  EXPECT_EQ(look("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3\n"), std::nullopt);
  // +10 user, +10 system, +5 irq, +5 steal; +60 idle, +10 iowait: 30 of 100.
  EXPECT_DOUBLE_EQ(look("cpu  110 0 110 860 10 5 0 5 9 9\n").value(), 30);
  EXPECT_DOUBLE_EQ(look("cpu  210 0 110 860 10 5 0 5 9 9\n").value(), 100);
}

TEST_F(HostCpuTest, IsUnknownWhenNothingWasCounted) {
  look("cpu  100 0 100 800 0 0 0 0 0 0\n");
  EXPECT_EQ(look("cpu  100 0 100 800 0 0 0 0 0 0\n"), std::nullopt);
  EXPECT_EQ(look("cpu  90 0 100 900 0 0 0 0 0 0\n"), std::nullopt);
}

TEST_F(HostCpuTest, IsUnknownWhenTheFileMakesNoSense) {
  look("cpu  100 0 100 800 0 0 0 0 0 0\n");
  EXPECT_EQ(look("intr 5\n"), std::nullopt);
  EXPECT_EQ(look("cpu  100 0\n"), std::nullopt);
  std::filesystem::remove(proc / "stat");
  EXPECT_EQ(cpu.sample_percent(), std::nullopt);
}

}  // namespace
}  // namespace weir::balance
