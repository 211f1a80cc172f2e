// SPDX-License-Identifier: Apache-2.0
//
// Weir beside programs of others on the same hooks: it sees them, says so, and leaves them alone.
#include <bpf/bpf.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "agent/kernel/fd.h"
#include "agent/kernel/foreign.h"
#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {
namespace {

constexpr char kService[] = "10.96.0.10:80";

/// A connect4 program that lets everything pass, attached by a link.
class ForeignConnect {
 public:
  explicit ForeignConnect(const std::string& cgroup) {
    std::array<bpf_insn, 2> code{};
    code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
    code[0].imm = 1;
    code[1].code = BPF_JMP | BPF_EXIT;
    bpf_prog_load_opts options{};
    options.sz = sizeof(options);
    options.expected_attach_type = BPF_CGROUP_INET4_CONNECT;
    program_ = Fd(bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "their_connect", "GPL", code.data(),
                                code.size(), &options));
    const Fd directory(open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    link_ = Fd(bpf_link_create(program_.get(), directory.get(), BPF_CGROUP_INET4_CONNECT, nullptr));
    bpf_prog_info info{};
    std::uint32_t bytes = sizeof(info);
    if (bpf_obj_get_info_by_fd(program_.get(), &info, &bytes) == 0) id_ = info.id;
  }
  [[nodiscard]] bool attached() const { return link_.valid(); }
  [[nodiscard]] std::uint32_t id() const { return id_; }
  /// Whether the kernel still has it on the cgroup.
  [[nodiscard]] bool is_on(const std::string& cgroup) const {
    const Fd directory(open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    std::array<std::uint32_t, 64> ids{};
    auto count = static_cast<std::uint32_t>(ids.size());
    if (bpf_prog_query(directory.get(), BPF_CGROUP_INET4_CONNECT, 0, nullptr, ids.data(), &count) !=
        0) {
      return false;
    }
    return std::count(ids.begin(), ids.begin() + count, id_) == 1;
  }

 private:
  Fd program_;
  Fd link_;
  std::uint32_t id_ = 0;
};

class Foreign : public DataPlaneTest {
 protected:
  std::vector<ForeignProgram> found() {
    std::vector<std::uint32_t> own;
    const auto links = pinned_links(sandbox_.pin_root()).value();
    for (const LinkInfo& link : links) own.push_back(link.program_id);
    return foreign_programs(sandbox_.cgroup(), own).value();
  }
  /// The one called their_connect; other software on this host is none of this test's business.
  std::optional<ForeignProgram> theirs() {
    for (const ForeignProgram& program : found()) {
      if (program.name == "their_connect") return program;
    }
    return std::nullopt;
  }
  bool reported() {
    for (const Capability& capability : plane_->capabilities()) {
      if (capability.name == "hooks of our own") {
        return capability.detail.find("their_connect") != std::string::npos;
      }
    }
    return false;
  }
  int connect_error() {
    return run_in<int>(sandbox_.cgroup(), [] {
      int error = 0;
      close(connect_to(endpoint(kService), false, &error));
      return error;
    });
  }
};

TEST_F(Foreign, Trap07OneBeforeUsIsReportedAndKept) {
  const ForeignConnect other(sandbox_.cgroup());
  ASSERT_TRUE(other.attached());
  const TcpBackend server("127.0.0.1");
  attach({service(kService, {server.address()})}, {1});
  EXPECT_TRUE(reported());
  const auto seen = theirs();
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(seen->program_id, other.id());
  EXPECT_EQ(seen->attach_type, "cgroup_inet4_connect");
  EXPECT_EQ(seen->where, ForeignProgram::Where::kHere);
  EXPECT_EQ(seen->cgroup, sandbox_.cgroup());
  EXPECT_EQ(seen->tag.size(), 16U);
  EXPECT_FALSE(seen->is_weir);
  EXPECT_EQ(connect_error(), 0);
  ASSERT_TRUE(plane_->detach().ok());
  EXPECT_TRUE(other.is_on(sandbox_.cgroup()));
}

TEST_F(Foreign, Trap09OneAfterUsIsSeenByStatusAndKept) {
  const TcpBackend server("127.0.0.1");
  attach({service(kService, {server.address()})}, {1});
  EXPECT_FALSE(reported());
  EXPECT_FALSE(theirs().has_value());
  const ForeignConnect other(sandbox_.cgroup());
  ASSERT_TRUE(other.attached());
  ASSERT_TRUE(theirs().has_value());
  EXPECT_EQ(connect_error(), 0);
  plane_.reset();
  attach({service(kService, {server.address()})}, {1});  // and by the next agent
  EXPECT_TRUE(reported());
  EXPECT_EQ(connect_error(), 0);
  ASSERT_TRUE(plane_->detach().ok());
  EXPECT_TRUE(other.is_on(sandbox_.cgroup()));
}

TEST_F(Foreign, DescendantsAndAncestorsAreLookedThrough) {
  const std::string child = sandbox_.cgroup() + "/child";
  ASSERT_TRUE(std::filesystem::create_directory(child));
  {
    const ForeignConnect below(child);
    ASSERT_TRUE(below.attached());
    attach({}, {});
    ASSERT_TRUE(theirs().has_value());
    EXPECT_EQ(theirs()->where, ForeignProgram::Where::kDescendant);
    EXPECT_EQ(theirs()->cgroup, child);
    // From the child, the same program is here, and ours above it.
    const auto from_child = foreign_programs(child, {}).value();
    const bool ours_above =
        std::any_of(from_child.begin(), from_child.end(), [&](const ForeignProgram& program) {
          return program.name == "weir_connect4" && program.is_weir &&
                 program.where == ForeignProgram::Where::kAncestor &&
                 program.cgroup == sandbox_.cgroup();
        });
    EXPECT_TRUE(ours_above);
  }
  std::filesystem::remove(child);
}

TEST_F(Foreign, AnotherWeirOnTheCgroupIsRefusedWithItsName) {
  attach({}, {});
  DataPlane::Options options;
  options.cgroup_path = sandbox_.cgroup();
  options.pin_root = sandbox_.pin_root() + "-other";
  const auto second = DataPlane::attach(options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Code::kAlreadyExists);
  const std::string& text = second.error().message;
  EXPECT_NE(text.find("pid " + std::to_string(getpid())), std::string::npos) << text;
  EXPECT_NE(text.find(sandbox_.pin_root() + "/v"), std::string::npos) << text;
  EXPECT_NE(text.find(sandbox_.cgroup()), std::string::npos) << text;
  EXPECT_FALSE(std::filesystem::exists(options.pin_root));

  // Also one that died: its programs still steer. The message says how to end that.
  plane_.reset();
  EXPECT_EQ(DataPlane::attach(options).error().code, Code::kAlreadyExists);
  ASSERT_TRUE(detach_pinned(sandbox_.pin_root()).ok());
  auto third = DataPlane::attach(options);
  ASSERT_TRUE(third.ok()) << third.error().message;
  ASSERT_TRUE((*third)->detach().ok());
}

}  // namespace
}  // namespace weir::kernel
