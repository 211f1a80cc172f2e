// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/status.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstring>
#include <fstream>

namespace weir::ctl {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using std::chrono::seconds;

/// A proc file system of our own, seen from the initial pid namespace or from another.
class StatusTest : public testing::Test {
 protected:
  StatusTest() {
    fs::remove_all(proc);
    fs::create_directories(proc / "self/ns");
    fs::create_directories(pins);
    enter_namespace("pid:[4026531836]");
    meta.abi_version = WEIR_ABI_VERSION;
    meta.agent_pid = 77;
    meta.agent_start_ns = 1'000'000'000;
    meta.heartbeat_ns = 3'000'000'000;
    meta.request_clock = WEIR_CLOCK_SKB;
    std::strcpy(meta.build_id, "abc123");
  }
  ~StatusTest() override { fs::remove_all(proc); }

  void enter_namespace(const std::string& name) {
    fs::remove(proc / "self/ns/pid");
    fs::create_symlink(name, proc / "self/ns/pid");
  }
  /// One line of /proc/locks about the pin directory, or about the inode `other` after it.
  void add_lock(const std::string& kind, const std::string& access, ino_t other = 0) {
    struct stat info {};
    ASSERT_EQ(stat(pins.c_str(), &info), 0);
    std::ofstream(proc / "locks", std::ios::app)
        << fmt::format("1: {}  ADVISORY  {} 78 {:02x}:{:02x}:{} 0 EOF\n", kind, access,
                       major(info.st_dev), minor(info.st_dev), info.st_ino + other);
  }
  AgentStatus status_at(seconds now) { return agent_status(meta, TimePoint(now), pins, proc); }

  static kernel::ServiceReading service() {
    kernel::ServiceReading service;
    service.name = "chat";
    service.address = Endpoint::parse("127.111.0.10:80").value();
    service.policy = WEIR_POLICY_P2C;
    service.members = 2;
    service.open = 1;
    service.rif_limit = 2.5;
    service.picks = 7;
    service.misses = 3;
    return service;
  }

  const fs::path proc = fs::temp_directory_path() / ("weir-status-" + std::to_string(getpid()));
  const fs::path pins = proc / "pins";
  weir_meta meta{};
};

TEST_F(StatusTest, TheLockDecidesWhereItCanBeSeen) {
  EXPECT_EQ(status_at(seconds(4)).state, AgentState::kDead) << "a fresh heartbeat of nobody";
  EXPECT_EQ(status_at(seconds(4)).pid, 77U);
  add_lock("POSIX", "WRITE");
  add_lock("FLOCK", "READ");
  add_lock("FLOCK", "WRITE", 1);
  EXPECT_EQ(status_at(seconds(4)).state, AgentState::kDead) << "other locks";
  add_lock("FLOCK", "WRITE");
  EXPECT_EQ(status_at(seconds(4)).state, AgentState::kRunning);
  EXPECT_EQ(status_at(seconds(4000)).state, AgentState::kRunning) << "slow ticks";
  EXPECT_EQ(status_at(seconds(4)).pid, 78U) << "the pid as it is called here";
}

TEST_F(StatusTest, TheHeartbeatDecidesInAContainer) {
  enter_namespace("pid:[4026532999]");
  EXPECT_EQ(status_at(seconds(7)).state, AgentState::kRunning);
  EXPECT_EQ(status_at(seconds(8)).state, AgentState::kDead);
}

TEST_F(StatusTest, ACleanStopLeavesNoAgent) {
  meta.agent_pid = 0;
  EXPECT_EQ(status_at(seconds(4)).state, AgentState::kNone);
  EXPECT_EQ(status_at(seconds(4)).pid, std::nullopt);
}

// The format of /proc/locks is the kernel's: this one is real.
TEST_F(StatusTest, FindsARealLock) {
  const int fd = open(pins.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(lock_holder(pins, "/proc"), std::nullopt);
  ASSERT_EQ(flock(fd, LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(lock_holder(pins, "/proc"), static_cast<std::uint32_t>(getpid()));
  close(fd);
  EXPECT_EQ(lock_holder(pins, "/proc"), std::nullopt);
}

TEST_F(StatusTest, JsonHasTheDocumentedShape) {
  StatusReport report;
  describe_meta(meta, TimePoint(seconds(91)), {AgentState::kRunning, 77}, report);
  report.cgroup = "/sys/fs/cgroup";
  report.services = {service()};
  report.capabilities = {{"connect4", kernel::Capability::Use::kUsed, true, "loaded", "4.17"}};
  report.foreign = {{"cgroup_inet4_connect", 7, "other", "00ff", "",
                     kernel::ForeignProgram::Where::kAncestor, false, std::nullopt}};
  report.links = {{"steer_connect4", 5, 9, "cgroup_inet4_connect"}};
  EXPECT_EQ(json::parse(to_json(report)), json::parse(R"({
    "agent": {"state": "running", "pid": 77, "uptime_seconds": 90, "build_id": "abc123"},
    "abi_version": 2, "cgroup": "/sys/fs/cgroup", "request_clock": "skb",
    "services": [{"name": "chat", "address": "127.111.0.10:80", "policy": "p2c", "backends": 2,
                  "open": 1, "panic": false, "rif_limit": 2.5, "picks": 7, "misses": 3}],
    "capabilities": [{"name": "connect4", "use": "used", "required": true, "since_linux": "4.17",
                      "detail": "loaded"}],
    "foreign_programs": [{"name": "other", "attach_type": "cgroup_inet4_connect", "program_id": 7,
                          "tag": "00ff", "cgroup": null, "where": "ancestor", "is_weir": false}],
    "links": [{"name": "steer_connect4", "link_id": 5, "program_id": 9,
               "attach_type": "cgroup_inet4_connect"}]})"))
      << to_json(report);
}

TEST_F(StatusTest, JsonOfNothingIsNulls) {
  EXPECT_EQ(json::parse(to_json(StatusReport{})), json::parse(R"({
    "agent": {"state": "none", "pid": null, "uptime_seconds": null, "build_id": null},
    "abi_version": 2, "cgroup": null, "request_clock": null, "services": [], "capabilities": [],
    "foreign_programs": [], "links": []})"));
}

TEST_F(StatusTest, TextTellsPeople) {
  StatusReport report;
  describe_meta(meta, TimePoint(seconds(91)), {AgentState::kDead, 77}, report);
  report.capabilities = {{"connect4", kernel::Capability::Use::kUsed, true, "loaded", "4.17"},
                         {"request clock: tracepoint", kernel::Capability::Use::kFallback, false,
                          "lockdown: skb clock"}};
  report.foreign = {{"cgroup_inet4_connect", 7, "other", "00ff", "",
                     kernel::ForeignProgram::Where::kAncestor, false, std::nullopt}};
  report.links = {{"steer_connect4", 5, 19, "cgroup_inet4_connect"}};
  report.services = {service(), service()};
  report.services[1].name = "chat.backup";
  report.services[1].address = {};
  report.services[1].open = 2;
  EXPECT_EQ(
      to_text(report),
      "agent          dead, pid 77 (the kernel steers on the last weights)\n"
      "build          abc123\n"
      "abi            2\n"
      "cgroup         -\n"
      "request clock  skb\n"
      "\n"
      "SERVICE      ADDRESS          POLICY  BACKENDS  OPEN  PANIC  HOT ABOVE  PICKS  MISSES\n"
      "chat         127.111.0.10:80  p2c            2     1     no        2.5      7       3\n"
      "chat.backup  -                p2c            2     2    yes        2.5      7       3\n"
      "\n"
      "CAPABILITY                 USE       REQUIRED  LINUX  DETAIL\n"
      "connect4                   used      yes       4.17   loaded\n"
      "request clock: tracepoint  fallback  no        -      lockdown: skb clock\n"
      "\n"
      "FOREIGN PROGRAM  ATTACHED TO           CGROUP        TAG   PROGRAM ID\n"
      "other            cgroup_inet4_connect  - (ancestor)  00ff           7\n"
      "\n"
      "PROGRAM         ATTACHED TO           LINK  PROGRAM ID\n"
      "steer_connect4  cgroup_inet4_connect     5          19\n");
}

TEST_F(StatusTest, UptimeIsReadable) {
  const auto first_line = [&](seconds now) {
    StatusReport report;
    describe_meta(meta, TimePoint(now), {AgentState::kRunning, 77}, report);
    const std::string text = to_text(report);
    return text.substr(0, text.find('\n'));
  };
  EXPECT_EQ(first_line(seconds(60)), "agent          running, pid 77, up 59s");
  EXPECT_EQ(first_line(seconds(61)), "agent          running, pid 77, up 1m00s");
  EXPECT_EQ(first_line(seconds(3601)), "agent          running, pid 77, up 1h00m");
  EXPECT_EQ(first_line(seconds(90001)), "agent          running, pid 77, up 1d01h");
}

TEST_F(StatusTest, FindsACgroupByItsInode) {
  fs::create_directories(proc / "a/b");
  struct stat info {};
  ASSERT_EQ(stat((proc / "a/b").c_str(), &info), 0);
  EXPECT_EQ(find_cgroup(proc, info.st_ino), (proc / "a/b").string());
  fs::remove(proc / "a/b");
  EXPECT_EQ(find_cgroup(proc / "a", info.st_ino), std::nullopt);
  EXPECT_EQ(find_cgroup("/nonexistent", 1), std::nullopt);
}

}  // namespace
}  // namespace weir::ctl
