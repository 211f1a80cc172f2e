// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/net_namespaces.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

namespace weir::kernel {
namespace {

namespace fs = std::filesystem;

/// A /proc and a cgroup tree of plain files; a namespace is a file, shared by hard links.
class NetNamespaces : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "weir-namespaces-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    fs::create_directories(root_ / "ns");
    cgroup("", "");
    process("self", "host");
  }
  ~NetNamespaces() override { fs::remove_all(root_); }

  void process(const std::string& pid, const std::string& net) {
    const fs::path target = root_ / "ns" / net;
    if (!fs::exists(target)) std::ofstream(target) << net;
    fs::create_directories(root_ / "proc" / pid / "ns");
    fs::create_hard_link(target, root_ / "proc" / pid / "ns" / "net");
  }
  void cgroup(const std::string& path, const std::string& pids) {
    fs::create_directories(root_ / "cgroup" / path);
    std::ofstream(root_ / "cgroup" / path / "cgroup.procs") << pids;
  }

  std::set<ino_t> found() {
    auto namespaces = net_namespaces_below(root_ / "cgroup", root_ / "proc");
    EXPECT_TRUE(namespaces.ok()) << namespaces.error().message;
    std::set<ino_t> inodes;
    for (const Fd& each : *namespaces) {
      struct stat status {};
      EXPECT_EQ(fstat(each.get(), &status), 0);
      EXPECT_TRUE(inodes.insert(status.st_ino).second) << "one namespace twice";
    }
    return inodes;
  }
  ino_t inode(const std::string& net) {
    struct stat status {};
    EXPECT_EQ(stat((root_ / "ns" / net).c_str(), &status), 0);
    return status.st_ino;
  }

  fs::path root_;
};

TEST_F(NetNamespaces, AreThoseOfTheProcessesInTheSubtree) {
  process("10", "host");
  process("11", "pod-a");
  process("12", "pod-a");
  process("13", "pod-b");
  process("14", "elsewhere");  // in no cgroup below
  cgroup("", "10\n");
  cgroup("pods/a", "11\n12\n");
  cgroup("pods/b/deep", "13\n");
  EXPECT_EQ(found(), (std::set{inode("host"), inode("pod-a"), inode("pod-b")}));
}

TEST_F(NetNamespaces, OwnOneIsAmongThem) { EXPECT_EQ(found(), std::set{inode("host")}); }

TEST_F(NetNamespaces, ProcessThatIsGoneOrUnseenIsNoError) {
  cgroup("pods", "0\n4711\n");
  EXPECT_EQ(found(), std::set{inode("host")});
}

TEST_F(NetNamespaces, CgroupThatIsMissingIsAnError) {
  const auto namespaces = net_namespaces_below(root_ / "no-such", root_ / "proc");
  ASSERT_FALSE(namespaces.ok());
  EXPECT_NE(namespaces.error().message.find("no-such"), std::string::npos);
}

TEST_F(NetNamespaces, AnErrorInOneKeepsNothingFromTheOthers) {
  // Plain files are no namespaces.
  process("11", "pod-a");
  cgroup("pods", "11\n");
  auto namespaces = net_namespaces_below(root_ / "cgroup", root_ / "proc");
  ASSERT_TRUE(namespaces.ok());
  int visits = 0;
  const Status done = in_each_net_namespace(*namespaces, [&]() -> Status {
    ++visits;
    return {};
  });
  EXPECT_FALSE(done.ok());
  EXPECT_EQ(visits, 0);
}

}  // namespace
}  // namespace weir::kernel
