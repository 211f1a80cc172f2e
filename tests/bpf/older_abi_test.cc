// SPDX-License-Identifier: Apache-2.0
//
// An agent that finds the maps and programs of another version: fixtures/older.bpf.c stands for it.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <filesystem>

#include "agent/kernel/decode.h"
#include "agent/kernel/fd.h"
#include "agent/kernel/libbpf_log.h"
#include "older.skel.h"
#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {
namespace {

namespace fs = std::filesystem;

constexpr char kService[] = "10.96.0.10:80";

/// As fixtures/older.bpf.c has it.
struct OlderBackend {
  std::uint64_t connects, forgotten;
  std::uint32_t in_flight, weight_q16, pool, state;
  weir_endpoint address;
  std::uint32_t is_local;
};
struct OlderPool {
  char name[32];
  std::uint64_t picks, table;
  weir_endpoint address;
  std::uint32_t in_use;
};

class OlderAbi : public DataPlaneTest {
 protected:
  using Skeleton = std::unique_ptr<older_bpf, void (*)(older_bpf*)>;

  /// Loads it, pins it below `version` with one service and one backend, and attaches it.
  void leave(const std::string& version) {
    route_libbpf_log();
    const Skeleton older(older_bpf__open_and_load(), older_bpf__destroy);
    ASSERT_NE(older, nullptr);
    OlderPool pool{};
    std::strcpy(pool.name, "service");
    pool.picks = 40;
    pool.address = encode(endpoint(kService));
    pool.in_use = 1;
    OlderBackend backend{};
    backend.connects = 40;
    backend.in_flight = 3;
    backend.weight_q16 = 2 * 65536;
    backend.state = 3;  // whatever that means there: not free
    backend.address = encode(server_.address());
    const std::uint32_t key = 0;
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(older->maps.weir_pool), &key, &pool, BPF_ANY), 0);
    ASSERT_EQ(bpf_map_update_elem(bpf_map__fd(older->maps.weir_be), &key, &backend, BPF_ANY), 0);

    former_ = sandbox_.pin_root() + "/" + version;
    fs::create_directories(former_ + "/links");
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, older->obj) {
      if (std::string(bpf_map__name(map)).rfind("weir_", 0) != 0) continue;
      ASSERT_EQ(bpf_map__pin(map, (former_ + "/" + bpf_map__name(map)).c_str()), 0);
    }
    const Fd cgroup(open(sandbox_.cgroup().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    bpf_link* const link = bpf_program__attach_cgroup(older->progs.weir_connect4, cgroup.get());
    ASSERT_NE(link, nullptr);
    ASSERT_EQ(bpf_link__pin(link, (former_ + "/links/weir_connect4").c_str()), 0);
    bpf_link__destroy(link);
  }

  /// Another map in place of a pinned one.
  void replace(const char* name, int map) {
    ASSERT_GE(map, 0);
    const std::string path = former_ + "/" + name;
    fs::remove(path);
    ASSERT_EQ(bpf_obj_pin(map, path.c_str()), 0);
  }

  std::vector<ServiceSpec> services() { return {service(kService, {server_.address()})}; }

  const TcpBackend server_{"127.0.0.1"};
  std::string former_;
};

TEST_F(OlderAbi, Trap16WhatItCountedGoesOnUnderTraffic) {
  leave("v1");
  struct Tally {
    std::atomic<std::uint64_t> connects, failures;
    std::atomic<bool> stop;
  };
  void* const memory =
      mmap(nullptr, sizeof(Tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* const tally = new (memory) Tally{};
  Application application(sandbox_.cgroup(), [tally](int out) {
    while (!tally->stop) {
      int error = 0;
      const int socket = connect_to(endpoint(kService), false, &error);
      const linger now{1, 0};  // no port stays behind in TIME_WAIT
      (void)setsockopt(socket, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
      close(socket);
      ++(error == 0 ? tally->connects : tally->failures);
    }
    (void)!write(out, "", 1);
  });
  ASSERT_TRUE(eventually([&] { return tally->connects > 200; }));
  const std::uint32_t link_before = [&] {
    const Fd link(bpf_obj_get((former_ + "/links/weir_connect4").c_str()));
    bpf_link_info info{};
    std::uint32_t bytes = sizeof(info);
    return bpf_obj_get_info_by_fd(link.get(), &info, &bytes) == 0 ? info.id : 0;
  }();
  auto attached = try_attach(services());
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  plane_ = std::move(*attached);
  EXPECT_TRUE(plane_->adopted());
  const std::uint64_t then = tally->connects;
  ASSERT_TRUE(eventually([&] { return tally->connects > then + 200; }));
  tally->stop = true;
  char end = 0;
  ASSERT_TRUE(application.read(&end, 1));

  EXPECT_EQ(tally->failures, 0U);
  const std::uint64_t made = tally->connects;
  munmap(memory, sizeof(Tally));
  EXPECT_FALSE(fs::exists(former_)) << "the old pins go when everything has moved";
  ASSERT_TRUE(eventually([&] { return backend(0).in_flight == 0; }))
      << "connections of the old version are none of these gauges";
  const BackendReading after = backend(0);
  EXPECT_EQ(after.address, server_.address());
  EXPECT_EQ(after.weight, 2);
  EXPECT_EQ(after.state, WEIR_BE_ACTIVE);
  EXPECT_EQ(after.connects, 40 + made);
  EXPECT_EQ(after.connect_failures, 0U);
  EXPECT_EQ(snapshot().services.at(0).picks, 40 + made);
  EXPECT_EQ(stat(WEIR_STAT_STEERED), made);
  // The link that steered is the same one, with another program: there was no moment without.
  const auto links = pinned_links(sandbox_.pin_root()).value();
  bool found = false;
  for (const LinkInfo& link : links) {
    if (link.name == "weir_connect4") found = link.link_id == link_before;
  }
  EXPECT_TRUE(found);
}

TEST_F(OlderAbi, ANewerOneIsRefused) {
  leave("v999");
  const auto refused = try_attach(services());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
  EXPECT_NE(refused.error().message.find("newer"), std::string::npos) << refused.error().message;
  EXPECT_NE(refused.error().message.find("weir detach"), std::string::npos);
  EXPECT_EQ(detach_pinned(sandbox_.pin_root()).value(), 1U);
}

TEST_F(OlderAbi, AMapOfAnotherTypeIsRefusedByNameAndKeepsSteering) {
  leave("v1");
  replace(WEIR_MAP_POOL,
          bpf_map_create(BPF_MAP_TYPE_HASH, WEIR_MAP_POOL, 4, sizeof(OlderPool), 8, nullptr));
  const auto refused = try_attach(services());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
  EXPECT_NE(refused.error().message.find("v1/weir_pool is no array"), std::string::npos)
      << refused.error().message;
  EXPECT_TRUE(fs::exists(former_ + "/links/weir_connect4"));
  EXPECT_EQ(detach_pinned(sandbox_.pin_root()).value(), 1U);
}

TEST_F(OlderAbi, AMapWithoutBtfIsRefusedByName) {
  leave("v1");
  bpf_map_create_opts options{};
  options.sz = sizeof(options);
  options.map_flags = BPF_F_MMAPABLE;
  replace(WEIR_MAP_BE,
          bpf_map_create(BPF_MAP_TYPE_ARRAY, WEIR_MAP_BE, 4, sizeof(OlderBackend), 16, &options));
  const auto refused = try_attach(services());
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("v1/weir_be has no BTF"), std::string::npos)
      << refused.error().message;
}

TEST_F(OlderAbi, AnAgentThatLivesThereIsRefused) {
  leave("v1");
  const Fd lock(open(former_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(lock.get(), LOCK_EX | LOCK_NB), 0);
  const auto refused = try_attach(services());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kAlreadyExists);
}

}  // namespace
}  // namespace weir::kernel
