// SPDX-License-Identifier: Apache-2.0
//
// Agents that need other maps than the one before them: everything counted moves to the new ones,
// while connections go on.
#include <bpf/bpf.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>

#include "agent/kernel/fd.h"
#include "agent/kernel/map_set.h"
#include "agent/kernel/pin_dir.h"
#include "agent/kernel/upgrade_carry.h"
#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {
namespace {

namespace fs = std::filesystem;

constexpr char kService[] = "10.96.0.10:80";

/// What applications count while the test swaps agents; shared with them.
struct Tally {
  std::atomic<std::uint64_t> connects;
  std::atomic<std::uint64_t> failures;
  std::atomic<bool> stop;
};

class SharedTally {
 public:
  SharedTally()
      : memory_(mmap(nullptr, sizeof(Tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                     0)) {
    if (memory_ == MAP_FAILED) std::abort();
    new (memory_) Tally{};
  }
  ~SharedTally() { munmap(memory_, sizeof(Tally)); }
  SharedTally(const SharedTally&) = delete;
  SharedTally& operator=(const SharedTally&) = delete;
  Tally* operator->() const { return static_cast<Tally*>(memory_); }
  Tally* get() const { return static_cast<Tally*>(memory_); }

 private:
  void* memory_;
};

/// With a reset, so that no port stays behind in TIME_WAIT: there are fewer than these tests need.
void reset(int socket) {
  const linger now{1, 0};
  (void)setsockopt(socket, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(socket);
}

/// Connects and closes, each one counted, until it is told to stop.
std::function<void(int)> connect_loop(Tally* tally) {
  return [tally](int out) {
    while (!tally->stop) {
      int error = 0;
      reset(connect_to(endpoint(kService), false, &error));
      ++(error == 0 ? tally->connects : tally->failures);
    }
    (void)!write(out, "", 1);
  };
}

/// Holds so many connections until it is killed.
std::function<void(int)> holder(int connections) {
  return [connections](int out) {
    int error = 0;
    for (int i = 0; i < connections && error == 0; ++i) {
      connect_to(endpoint(kService), false, &error);
    }
    (void)!write(out, &error, sizeof(error));
    pause();
  };
}

class UpgradeTest : public DataPlaneTest {
 protected:
  /// The server, and so many backends besides that get no connection.
  std::vector<ServiceSpec> services_with(std::size_t others) {
    std::vector<Endpoint> backends = {server_.address()};
    for (std::size_t i = 0; i < others; ++i) {
      backends.push_back(endpoint("127.0." + std::to_string(1 + i / 250) + "." +
                                  std::to_string(1 + i % 250) + ":9"));
    }
    return {service(kService, backends)};
  }

  void stop(Application& application, const SharedTally& tally) {
    tally->stop = true;
    char end = 0;
    ASSERT_TRUE(application.read(&end, 1));
  }

  std::size_t capacity() const {
    const Fd map(bpf_obj_get((version_path(sandbox_.pin_root()) + "/" WEIR_MAP_BE).c_str()));
    bpf_map_info info{};
    std::uint32_t bytes = sizeof(info);
    return bpf_obj_get_info_by_fd(map.get(), &info, &bytes) == 0 ? info.max_entries : 0;
  }

  const TcpBackend server_{"127.0.0.1"};
};

TEST_F(UpgradeTest, LargerMapsUnderTrafficLoseNoCount) {
  attach(services_with(0), {1});
  ASSERT_EQ(capacity(), std::size_t{WEIR_MIN_BACKENDS});
  Application held(sandbox_.cgroup(), holder(7));
  int error = -1;
  ASSERT_TRUE(held.read(&error, sizeof(error)));
  ASSERT_EQ(error, 0);
  const SharedTally tally;
  Application first(sandbox_.cgroup(), connect_loop(tally.get()));
  Application second(sandbox_.cgroup(), connect_loop(tally.get()));

  std::size_t room = WEIR_MIN_BACKENDS;
  for (const std::size_t others : {100U, 200U, 400U}) {
    const std::uint64_t before = tally->connects;
    ASSERT_TRUE(eventually([&] { return tally->connects > before + 200; }))
        << others << ": " << before << " " << tally->connects << " " << tally->failures;
    plane_.reset();  // as after a crash
    attach(services_with(others), {1});
    EXPECT_TRUE(plane_->adopted());
    EXPECT_GT(capacity(), room);
    room = capacity();
  }
  stop(first, tally);
  stop(second, tally);
  EXPECT_EQ(tally->failures, 0U) << "a connect() was not steered";
  EXPECT_TRUE(eventually([&] { return backend(0).in_flight == 7; }))
      << backend(0).in_flight << " in flight, " << backend(0).fresh << " fresh, connects "
      << backend(0).connects << ", made " << tally->connects + 7 << ", released "
      << stat(WEIR_STAT_RELEASED) << ", below zero " << stat(WEIR_STAT_UNDERFLOW_PREVENTED)
      << ", bad index " << stat(WEIR_STAT_BAD_INDEX) << ", again "
      << stat(WEIR_STAT_RECONNECT_RELEASED);
  held.kill();
  ASSERT_TRUE(eventually([&] { return backend(0).in_flight == 0; }));

  const std::uint64_t made = tally->connects + 7;
  const BackendReading after = backend(0);
  EXPECT_EQ(after.connects, made);
  EXPECT_EQ(after.established, made);
  EXPECT_EQ(after.direct, 0U);
  EXPECT_EQ(after.connect_failures, 0U);
  EXPECT_EQ(after.connect_latency().count(), made);
  EXPECT_EQ(snapshot().services.at(0).picks, made);
  EXPECT_EQ(after.fresh + after.waiting + after.streaming, 0U);
  EXPECT_EQ(stat(WEIR_STAT_STEERED), made);
  EXPECT_EQ(stat(WEIR_STAT_UNDERFLOW_PREVENTED), 0U);
  EXPECT_EQ(stat(WEIR_STAT_BAD_INDEX), 0U);
  EXPECT_TRUE(eventually([&] { return backend(0).closes == made; })) << backend(0).closes;
}

TEST_F(UpgradeTest, LargerMapsKeepShares) {
  const TcpBackend other("127.0.0.1");
  auto services = std::vector{service(kService, {server_.address(), other.address()})};
  services[0].policy = WEIR_POLICY_WEIGHTED_RANDOM;
  attach(services, {3, 1});
  plane_.reset();
  services = services_with(100);
  services[0].policy = WEIR_POLICY_WEIGHTED_RANDOM;
  services[0].backends.push_back({other.address(), false});
  auto next = try_attach(services);  // nothing published yet
  ASSERT_TRUE(next.ok()) << next.error().message;
  plane_ = std::move(*next);
  const Snapshot seen = snapshot();
  EXPECT_EQ(seen.backends.at(0).weight, 3);
  EXPECT_EQ(seen.backends.at(1).weight, 1);
  EXPECT_EQ(seen.backends.at(1).address, other.address());
  EXPECT_EQ(seen.backends.at(2).weight, 0);
  const int failed = run_in<int>(sandbox_.cgroup(), [] {
    int error = 0;
    for (int i = 0; i < 400 && error == 0; ++i) {
      close(connect_to(endpoint(kService), false, &error));
    }
    return error;
  });
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(backend(0).connects + backend(1).connects, 400U);
  EXPECT_NEAR(static_cast<double>(backend(0).connects), 300, 60);  // 7 standard deviations
}

TEST_F(UpgradeTest, InterruptedUpgradeIsTakenUp) {
  attach(services_with(0), {1});
  Application held(sandbox_.cgroup(), holder(3));
  int error = -1;
  ASSERT_TRUE(held.read(&error, sizeof(error)));
  plane_.reset();
  const std::string pins = version_path(sandbox_.pin_root());
  {
    // Of an agent that died between the last transfer and the first rename: complete new maps
    // beside the old ones, which hold nothing any more but the bias.
    attach(services_with(100), {1});
    plane_.reset();
    fs::create_directories(pins + "/next");
    for (const char* name : kMapNames) {
      fs::rename(pins + "/" + name, pins + "/next/" + name);
    }
    const KernelSandbox spare;
    DataPlane::Options options;
    options.cgroup_path = spare.cgroup();
    options.pin_root = spare.pin_root();
    options.services = services_with(0);
    auto old = DataPlane::attach(options);
    ASSERT_TRUE(old.ok()) << old.error().message;
    auto maps = open_pinned_maps(version_path(spare.pin_root()), true);
    ASSERT_TRUE(maps.ok());
    maps->totals()[0].connects = 2;  // counted after the last transfer
    // A connection that was counted in the new maps has ended.
    maps->backends()[0].in_flight = kGaugeBias - 1;
    for (const char* name : kMapNames) {
      const bool is_table = std::string(name) == WEIR_MAP_BE ||
                            std::string(name) == WEIR_MAP_TOTAL ||
                            std::string(name) == WEIR_MAP_POOL;
      const std::string from = is_table ? version_path(spare.pin_root()) : pins + "/next";
      const Fd fd(bpf_obj_get((from + "/" + name).c_str()));
      ASSERT_EQ(bpf_obj_pin(fd.get(), (pins + "/" + name).c_str()), 0);
    }
  }
  attach(services_with(100), {1});
  EXPECT_FALSE(fs::exists(pins + "/next"));
  EXPECT_EQ(backend(0).connects, 3U + 2U);
  EXPECT_EQ(backend(0).in_flight, 3U - 1U);
}

TEST_F(UpgradeTest, HalfMovedPinsAreMovedOnAtTheNextStart) {
  attach(services_with(0), {1});
  plane_.reset();
  const std::string pins = version_path(sandbox_.pin_root());
  fs::create_directories(pins + "/next");
  fs::create_directories(pins + "/staging");
  fs::rename(pins + "/" WEIR_MAP_BE, pins + "/next/" WEIR_MAP_BE);
  fs::rename(pins + "/" WEIR_MAP_SK, pins + "/next/" WEIR_MAP_SK);
  attach(services_with(0), {1});
  EXPECT_FALSE(fs::exists(pins + "/next"));
  EXPECT_FALSE(fs::exists(pins + "/staging"));
  EXPECT_EQ(snapshot().backends.size(), 1U);
}

TEST_F(UpgradeTest, FailedUpgradeLeavesTheOldMapsInForce) {
  attach(services_with(0), {1});
  plane_.reset();
  auto services = services_with(100);
  services.push_back(services[0]);  // one address twice
  ASSERT_FALSE(try_attach(services).ok());
  EXPECT_EQ(capacity(), std::size_t{WEIR_MIN_BACKENDS});
  EXPECT_FALSE(fs::exists(version_path(sandbox_.pin_root()) + "/staging"));
  const int error = run_in<int>(sandbox_.cgroup(), [] {
    int result = 0;
    close(connect_to(endpoint(kService), false, &result));
    return result;
  });
  EXPECT_EQ(error, 0);
  attach(services_with(0), {1});
  EXPECT_EQ(backend(0).connects, 1U);
}

}  // namespace
}  // namespace weir::kernel
