// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/capabilities.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "agent/kernel/foreign.h"
#include "tests/fixtures/fake_kernel_probe.h"

namespace weir::kernel {
namespace {

using Use = Capability::Use;

Capability row(const Capabilities& table, const std::string& name) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const Capability& other) { return other.name == name; });
  return found == table.end() ? Capability{"no row " + name, Use::kMissing, false, ""} : *found;
}

Capabilities without(std::set<Feature> missing, std::optional<weir_request_clock> clock = {}) {
  return describe_kernel(clock, FakeKernelProbe(std::move(missing)));
}

TEST(Capabilities, AKernelWithEverythingUsesAllButTheOtherClock) {
  const Capabilities table = without({});
  EXPECT_EQ(table.size(), 24U);
  for (const Capability& capability : table) {
    const bool is_other_clock = capability.name == "request clock: skb";
    EXPECT_EQ(capability.use, is_other_clock ? Use::kFallback : Use::kUsed) << capability.name;
  }
}

TEST(Capabilities, WhatIsRequiredIsMissing) {
  for (const auto& [feature, name] :
       {std::pair(Feature::kCgroup2, "cgroup v2"), std::pair(Feature::kBtf, "BTF"),
        std::pair(Feature::kReadKernelTypes, "CAP_PERFMON"),
        std::pair(Feature::kConnect6, "connect6 steering"),
        std::pair(Feature::kSockRelease, "sock_release"),
        std::pair(Feature::kTcpIterator, "iter/tcp"),
        std::pair(Feature::kRingBuffer, "ring buffer")}) {
    const Capability missing = row(without({feature}), name);
    EXPECT_EQ(missing.use, Use::kMissing) << name;
    EXPECT_TRUE(missing.required) << name;
    EXPECT_NE(missing.detail.find("does not start"), std::string::npos) << missing.detail;
  }
}

TEST(Capabilities, Trap18WhatHasAFallbackSaysWhatItCosts) {
  const Capability retval = row(without({Feature::kSetRetval}), "errno of a refused connect");
  EXPECT_EQ(retval.use, Use::kFallback);
  EXPECT_EQ(retval.since, "5.18");
  EXPECT_NE(retval.detail.find("EPERM"), std::string::npos);
  const Capability destroy = row(without({Feature::kSockDestroy}), "bpf_sock_destroy");
  EXPECT_EQ(destroy.use, Use::kMissing);
  EXPECT_FALSE(destroy.required);
  EXPECT_EQ(destroy.since, "6.5");
  const Capability migrate = row(without({Feature::kReuseportMigrate}), "listener migration");
  EXPECT_EQ(migrate.use, Use::kFallback);
  EXPECT_NE(migrate.detail.find("tcp_migrate_req"), std::string::npos);
}

TEST(Capabilities, WithoutTracepointsTheOtherClockIsUsed) {
  const Capabilities table = without({Feature::kTracepoints});
  EXPECT_EQ(row(table, "request clock: tracepoint").use, Use::kMissing);
  EXPECT_EQ(row(table, "request clock: skb").use, Use::kUsed);
}

TEST(Capabilities, WithoutPayloadAtTracepointsTheClockStays) {
  const Capabilities table = without({Feature::kTracepointPayload});
  EXPECT_EQ(row(table, "payload at tracepoints").use, Use::kFallback);
  EXPECT_FALSE(row(table, "payload at tracepoints").required);
  EXPECT_EQ(row(table, "request clock: tracepoint").use, Use::kUsed);
}

TEST(Capabilities, AForcedClockIsTheOneInUse) {
  const Capabilities table = without({}, WEIR_CLOCK_SKB);
  EXPECT_EQ(row(table, "request clock: tracepoint").use, Use::kFallback);
  EXPECT_EQ(row(table, "request clock: skb").use, Use::kUsed);
}

TEST(Capabilities, ForeignProgramsShareTheHooks) {
  EXPECT_EQ(describe_hooks({}).use, Use::kUsed);
  ForeignProgram other;
  other.name = "their_connect";
  other.program_id = 7;
  other.attach_type = "cgroup_inet4_connect";
  const Capability shared = describe_hooks({other});
  EXPECT_EQ(shared.use, Use::kFallback);
  EXPECT_NE(shared.detail.find("their_connect (id 7"), std::string::npos) << shared.detail;
}

}  // namespace
}  // namespace weir::kernel
