// SPDX-License-Identifier: Apache-2.0
//
// Agents come and go; the kernel keeps steering.
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <set>

#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {
namespace {

constexpr char kService[] = "10.96.0.10:80";

class Lifecycle : public DataPlaneTest {};

/// Written by the application while the test swaps agents.
struct Tally {
  std::atomic<int> connects;
  std::atomic<int> failures;
};

TEST_F(Lifecycle, RestartedAgentAdoptsWithoutAGap) {
  const TcpBackend server("127.0.0.1");
  const auto services = std::vector{service(kService, {server.address()})};
  attach(services, {1});
  EXPECT_FALSE(plane_->adopted());
  const auto links_before = pinned_links(sandbox_.pin_root()).value();

  void* const memory =
      mmap(nullptr, sizeof(Tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* const tally = new (memory) Tally{};
  Application application(sandbox_.cgroup(), [tally](int) {
    for (;;) {
      int error = 0;
      close(connect_to(endpoint(kService), false, &error));
      ++(error == 0 ? tally->connects : tally->failures);
    }
  });
  ASSERT_TRUE(eventually([&] { return tally->connects > 20; }));

  for (int restart = 0; restart < 5; ++restart) {
    plane_.reset();  // as after a crash: nothing is cleaned up
    const int alone = tally->connects;
    ASSERT_TRUE(eventually([&] { return tally->connects > alone + 20; }));
    auto next = try_attach(services);
    ASSERT_TRUE(next.ok()) << next.error().message;
    plane_ = std::move(*next);
    EXPECT_TRUE(plane_->adopted());
    publish({1});
  }
  application.kill();
  EXPECT_EQ(tally->failures.load(), 0) << "a connect() in between was not steered";
  const int connects = tally->connects;
  munmap(memory, sizeof(Tally));

  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
  EXPECT_EQ(snapshot().backends.size(), 1U);
  EXPECT_EQ(backend(0).index, 0U);
  // The killed application may have been in the middle of one more.
  EXPECT_GE(backend(0).connects, static_cast<std::uint64_t>(connects));
  EXPECT_LE(backend(0).connects, static_cast<std::uint64_t>(connects) + 1);
  EXPECT_EQ(backend(0).connects, stat(WEIR_STAT_STEERED));

  // The cgroup links are the same ones, with new programs in them.
  const auto links_after = pinned_links(sandbox_.pin_root()).value();
  ASSERT_EQ(links_after.size(), links_before.size());
  for (std::size_t i = 0; i < links_after.size(); ++i) {
    EXPECT_EQ(links_after[i].name, links_before[i].name);
    EXPECT_NE(links_after[i].program_id, links_before[i].program_id);
    if (links_after[i].attach_type != "trace_raw_tp") {
      EXPECT_EQ(links_after[i].link_id, links_before[i].link_id);
    }
  }
}

TEST_F(Lifecycle, ConnectionsOutliveTheAgentAndAreCountedByTheNext) {
  const TcpBackend server("127.0.0.1");
  const auto services = std::vector{service(kService, {server.address()})};
  attach(services, {1});
  Application holder(sandbox_.cgroup(), [](int out) {
    int error = 0;
    connect_to(endpoint(kService), false, &error);
    (void)!write(out, &error, sizeof(error));
    pause();
  });
  int error = -1;
  ASSERT_TRUE(holder.read(&error, sizeof(error)));
  ASSERT_EQ(error, 0);
  plane_.reset();
  attach(services, {1}, WEIR_CLOCK_SKB);  // also with another request clock
  EXPECT_EQ(backend(0).in_flight, 1U);
  std::set<std::string> links;
  const auto pinned = pinned_links(sandbox_.pin_root()).value();
  for (const LinkInfo& link : pinned) links.insert(link.name);
  EXPECT_EQ(links.count("weir_tp_send"), 0U);
  EXPECT_EQ(links.count("weir_skb_out"), 1U);
  holder.kill();
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));
}

TEST_F(Lifecycle, SecondAgentIsRefusedWhileTheFirstLives) {
  attach({service(kService, {})}, {});
  auto second = try_attach({});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, Code::kAlreadyExists);
  EXPECT_NE(second.error().message.find("pid " + std::to_string(getpid())), std::string::npos)
      << second.error().message;
  auto detached = detach_pinned(sandbox_.pin_root());
  ASSERT_FALSE(detached.ok());
  EXPECT_EQ(detached.error().code, Code::kAlreadyExists);
  EXPECT_EQ(snapshot().services.size(), 1U);  // untouched
}

TEST_F(Lifecycle, DetachLeavesNothing) {
  const TcpBackend server("127.0.0.1");
  attach({service(kService, {server.address()})}, {1});
  ASSERT_TRUE(plane_->detach().ok());
  EXPECT_FALSE(std::filesystem::exists(sandbox_.pin_root()));
  EXPECT_EQ(pinned_links(sandbox_.pin_root()).value().size(), 0U);
  const int error = run_in<int>(sandbox_.cgroup(), [] {
    int result = 0;
    connect_to(endpoint(kService), false, &result);
    return result;
  });
  EXPECT_EQ(error, ENETUNREACH);
}

TEST_F(Lifecycle, DetachTakesEverythingBelowTheVersionDirectories) {
  attach({}, {});
  plane_.reset();
  const std::string pins = sandbox_.pin_root() + "/v" + std::to_string(WEIR_ABI_VERSION);
  std::filesystem::create_directories(pins + "/listen/4026531840-80-127_0_0_1");
  std::filesystem::create_directories(pins + "/next");
  std::filesystem::create_directories(sandbox_.pin_root() + "/v1/links");
  EXPECT_TRUE(detach_pinned(sandbox_.pin_root()).ok());
  EXPECT_FALSE(std::filesystem::exists(sandbox_.pin_root()));
}

TEST_F(Lifecycle, PinsOfADeadAgentCanBeReadAndDetached) {
  const TcpBackend server("127.0.0.1");
  attach({service(kService, {server.address()})}, {1});
  plane_.reset();
  {
    auto reader = open_pinned(sandbox_.pin_root());
    ASSERT_TRUE(reader.ok()) << reader.error().message;
    const Snapshot seen = (*reader)->read().value();
    ASSERT_EQ(seen.backends.size(), 1U);
    EXPECT_EQ(seen.backends[0].address, server.address());
    EXPECT_EQ(seen.backends[0].service, "service");
    EXPECT_EQ(seen.meta.abi_version, weir_u32{WEIR_ABI_VERSION});
    EXPECT_EQ(seen.meta.agent_pid, static_cast<weir_u32>(getpid()));
  }
  const std::size_t links = pinned_links(sandbox_.pin_root()).value().size();
  EXPECT_GE(links, 8U);
  EXPECT_EQ(detach_pinned(sandbox_.pin_root()).value(), links);
  EXPECT_EQ(open_pinned(sandbox_.pin_root()).error().code, Code::kNotFound);
  EXPECT_EQ(detach_pinned(sandbox_.pin_root()).error().code, Code::kNotFound);
}

TEST_F(Lifecycle, OtherAbiIsRefused) {
  std::filesystem::create_directories(sandbox_.pin_root() + "/v999/links");
  auto attached = try_attach({});
  ASSERT_FALSE(attached.ok());
  EXPECT_EQ(attached.error().code, Code::kUnsupported);
  EXPECT_NE(attached.error().message.find("weir detach"), std::string::npos);
  EXPECT_EQ(detach_pinned(sandbox_.pin_root()).value(), 0U);
  EXPECT_TRUE(try_attach({}).ok());
}

TEST_F(Lifecycle, FolderWithOtherThingsInItIsNotMountedOver) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("weir-pins-" + std::to_string(getpid()));
  std::filesystem::create_directories(folder / "something");
  DataPlane::Options options;
  options.cgroup_path = sandbox_.cgroup();
  options.pin_root = folder.string();
  const auto attached = DataPlane::attach(options);
  EXPECT_TRUE(std::filesystem::exists(folder / "something"));
  std::filesystem::remove_all(folder);
  ASSERT_FALSE(attached.ok());
  EXPECT_EQ(attached.error().code, Code::kInvalidArgument);
}

TEST_F(Lifecycle, FailedAttachLeavesNothing) {
  auto attached = try_attach({service(kService, {}), service(kService, {})});
  ASSERT_FALSE(attached.ok());
  EXPECT_EQ(attached.error().code, Code::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(sandbox_.pin_root()));
}

TEST_F(Lifecycle, AdoptedLinkOnAnotherCgroupMovesToTheConfiguredOne) {
  const TcpBackend server("127.0.0.1");
  const auto services = std::vector{service(kService, {server.address()})};
  attach(services, {1});
  plane_.reset();
  const KernelSandbox other;
  DataPlane::Options options;
  options.cgroup_path = other.cgroup();
  options.pin_root = sandbox_.pin_root();
  options.services = services;
  auto moved = DataPlane::attach(options);
  ASSERT_TRUE(moved.ok()) << moved.error().message;
  const auto error_in = [](const std::string& cgroup) {
    return run_in<int>(cgroup, [] {
      int result = 0;
      connect_to(endpoint(kService), false, &result);
      return result;
    });
  };
  EXPECT_EQ(error_in(sandbox_.cgroup()), ENETUNREACH);
  EXPECT_EQ((*moved)->read().value().stats[WEIR_STAT_STEERED], 0U);
  (void)error_in(other.cgroup());
  EXPECT_EQ((*moved)->read().value().stats[WEIR_STAT_STEERED], 1U);
}

TEST_F(Lifecycle, CapabilitiesNameTheClockInUse) {
  attach({}, {}, WEIR_CLOCK_SKB);
  bool found = false;
  for (const Capability& capability : plane_->capabilities()) {
    if (capability.required) {
      EXPECT_EQ(capability.use, Capability::Use::kUsed) << capability.name;
    }
    if (capability.name == "request clock: skb") {
      found = true;
      EXPECT_EQ(capability.use, Capability::Use::kUsed);
    }
  }
  EXPECT_TRUE(found);
  EXPECT_EQ(snapshot().meta.request_clock, weir_u32{WEIR_CLOCK_SKB});
}

}  // namespace
}  // namespace weir::kernel
