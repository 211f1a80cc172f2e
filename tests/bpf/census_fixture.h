// SPDX-License-Identifier: Apache-2.0
//
// What the tests of the runs over existing sockets share: time that moves when the test says so,
// and the maps as memory.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "agent/kernel/map_set.h"
#include "agent/kernel/pin_dir.h"
#include "tests/bpf/data_plane_fixture.h"
#include "tests/fixtures/remote_sockets.h"

namespace weir::kernel {

class CensusTest : public DataPlaneTest {
 protected:
  static constexpr char kService[] = "10.96.0.10:80";

  /// As the control loop calls it, but so much later that all chores are due, and every connection
  /// has been silent for long.
  CensusReport take_census() {
    later_ += std::chrono::seconds(10);
    const Status done = plane_->housekeeping(later_);
    EXPECT_TRUE(done.ok()) << done.error().message;
    return snapshot().census;
  }

  /// As the control loop calls it first.
  CensusReport adopt() {
    const Status done = plane_->housekeeping(std::chrono::steady_clock::now());
    EXPECT_TRUE(done.ok()) << done.error().message;
    return snapshot().census;
  }

  /// The maps, to be changed behind the back of the data plane.
  MapSet maps() { return open_pinned_maps(version_path(sandbox_.pin_root()), true).value(); }

  struct Gauges {
    std::uint32_t in_flight, fresh, waiting, streaming;
    bool operator==(const Gauges&) const = default;
    friend std::ostream& operator<<(std::ostream& out, const Gauges& g) {
      return out << "in_flight " << g.in_flight << " fresh " << g.fresh << " waiting " << g.waiting
                 << " streaming " << g.streaming;
    }
  };
  Gauges gauges(std::size_t i) {
    const BackendReading now = backend(i);
    return {now.in_flight, now.fresh, now.waiting, now.streaming};
  }

  TimePoint later_ = std::chrono::steady_clock::now();
};

}  // namespace weir::kernel
