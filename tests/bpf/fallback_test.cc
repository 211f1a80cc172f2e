// SPDX-License-Identifier: Apache-2.0
//
// What Weir does on a kernel that lacks something.
#include "agent/kernel/probe.h"
#include "tests/bpf/data_plane_fixture.h"
#include "tests/fixtures/fake_kernel_probe.h"

namespace weir::kernel {
namespace {

constexpr char kService[] = "10.96.0.10:80";

class Fallback : public DataPlaneTest {
 protected:
  Result<std::unique_ptr<DataPlane>> attach_without(std::set<Feature> missing,
                                                    const Endpoint& backend) {
    const FakeKernelProbe kernel(std::move(missing), &running_kernel());
    DataPlane::Options options;
    options.cgroup_path = sandbox_.cgroup();
    options.pin_root = sandbox_.pin_root();
    options.services = {service(kService, {backend})};
    return DataPlane::attach(options, kernel);
  }
  std::set<std::string> programs() {
    std::set<std::string> names;
    const auto links = pinned_links(sandbox_.pin_root()).value();
    for (const LinkInfo& link : links) names.insert(link.name);
    return names;
  }
  const TcpBackend server_{"127.0.0.1"};
};

TEST_F(Fallback, Trap15WithoutTracepointsRequestsAreSeenInPackets) {
  auto attached = attach_without({Feature::kTracepoints}, server_.address());
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  plane_ = std::move(*attached);
  EXPECT_EQ(snapshot().meta.request_clock, weir_u32{WEIR_CLOCK_SKB});
  EXPECT_TRUE(programs().contains("weir_skb_in"));
  EXPECT_FALSE(programs().contains("weir_tp_recv"));
}

TEST_F(Fallback, WithoutPayloadAtTracepointsItIsLookedAtInPackets) {
  auto attached = attach_without({Feature::kTracepointPayload}, server_.address());
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  plane_ = std::move(*attached);
  EXPECT_EQ(snapshot().meta.request_clock, weir_u32{WEIR_CLOCK_TRACEPOINT});
  EXPECT_TRUE(programs().contains("weir_tp_in"));
  EXPECT_TRUE(programs().contains("weir_tp_recv"));
  EXPECT_FALSE(programs().contains("weir_tp_copy"));
  plane_.reset();
  if (!running_kernel().has(Feature::kTracepointPayload)) return;

  // The same kernel, made newer: no link of the other way is left.
  attach({service(kService, {server_.address()})}, {1});
  EXPECT_TRUE(programs().contains("weir_tp_copy"));
  EXPECT_FALSE(programs().contains("weir_tp_in"));
  EXPECT_FALSE(programs().contains("weir_tp_recv"));
}

TEST_F(Fallback, WithoutAnyClockConnectionsAreStillSteeredAndCounted) {
  auto attached = attach_without({Feature::kTracepoints, Feature::kCgroupSkb}, server_.address());
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  plane_ = std::move(*attached);
  EXPECT_EQ(snapshot().meta.request_clock, weir_u32{WEIR_CLOCK_NONE});
  const int error = run_in<int>(sandbox_.cgroup(), [] {
    int result = 0;
    close(connect_to(endpoint(kService), false, &result));
    return result;
  });
  EXPECT_EQ(error, 0);
  EXPECT_EQ(backend(0).established, 1U);
}

TEST_F(Fallback, WithoutSockDestroyIdleConnectionsStayAndItSaysSo) {
  auto attached = attach_without({Feature::kSockDestroy}, server_.address());
  ASSERT_TRUE(attached.ok()) << attached.error().message;
  plane_ = std::move(*attached);
  const auto ended = plane_->end_idle_connections(0);
  ASSERT_FALSE(ended.ok());
  EXPECT_EQ(ended.error().code, Code::kUnsupported);
  EXPECT_TRUE(plane_->housekeeping(std::chrono::steady_clock::now()).ok());
}

TEST_F(Fallback, WithoutSomethingRequiredItDoesNotStart) {
  auto attached = attach_without({Feature::kSockRelease}, server_.address());
  ASSERT_FALSE(attached.ok());
  EXPECT_EQ(attached.error().code, Code::kUnsupported);
  EXPECT_NE(attached.error().message.find("sock_release"), std::string::npos)
      << attached.error().message;
}

}  // namespace
}  // namespace weir::kernel
