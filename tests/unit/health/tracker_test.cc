// SPDX-License-Identifier: Apache-2.0
#include "agent/health/tracker.h"

#include <gtest/gtest.h>

#include "tests/fixtures/fake_clock.h"
#include "tests/fixtures/fake_maps.h"

namespace weir::health {
namespace {

using std::chrono::seconds;

class TrackerTest : public testing::Test {
 protected:
  TrackerTest() {
    maps.add_service("chat", "127.111.0.10:80", {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"});
  }
  Changes look() { return tracker.observe(maps.snapshot.backends, clock.now()); }

  FakeClock clock;
  FakeMaps maps;
  Tracker tracker{TrackerOptions{}, [] { return 0.0; }};
};

TEST_F(TrackerTest, TellsEachChangeAsOneLine) {
  maps.fail_connects(1, 4);
  const Changes changes = look();
  ASSERT_EQ(changes.backends.size(), 1U);
  EXPECT_TRUE(changes.pools.empty());
  EXPECT_EQ(to_log_line(changes.backends[0]),
            "breaker service=chat backend=127.0.0.1:2 from=closed to=open "
            "consecutive_failures=4 open_ms=5000");
  EXPECT_TRUE(look().backends.empty());
  clock.advance(seconds(5));
  EXPECT_EQ(to_log_line(look().backends.at(0)),
            "breaker service=chat backend=127.0.0.1:2 from=open to=half_open "
            "consecutive_failures=4");
}

TEST_F(TrackerTest, PanicsWhenFewerThanHalfAreUsable) {
  maps.fail_connects(0, 3);
  EXPECT_TRUE(look().pools.empty());  // 2 of 3
  EXPECT_FALSE(tracker.panic("chat"));
  maps.fail_connects(1, 3);
  const Changes changes = look();  // 1 of 3
  ASSERT_EQ(changes.pools.size(), 1U);
  EXPECT_EQ(to_log_line(changes.pools[0]), "panic service=chat on=true usable=1 backends=3");
  EXPECT_TRUE(tracker.panic("chat"));

  clock.advance(seconds(5));  // both half-open, and so usable
  const Changes after = look();
  ASSERT_EQ(after.pools.size(), 1U);
  EXPECT_EQ(to_log_line(after.pools[0]), "panic service=chat on=false usable=3 backends=3");
}

TEST_F(TrackerTest, HalfOfAPoolIsEnough) {
  maps.snapshot.backends.pop_back();
  maps.fail_connects(0, 3);
  look();
  EXPECT_FALSE(tracker.panic("chat"));
}

TEST_F(TrackerTest, AServiceThatRefusesNeverPanics) {
  Tracker strict({BreakerOptions{}, {"chat"}}, [] { return 0.0; });
  for (std::size_t i = 0; i < 3; ++i) maps.fail_connects(i, 3);
  const Changes changes = strict.observe(maps.snapshot.backends, clock.now());
  EXPECT_EQ(changes.backends.size(), 3U);
  EXPECT_TRUE(changes.pools.empty());
  EXPECT_FALSE(strict.panic("chat"));
}

TEST_F(TrackerTest, DrainingBackendsAreNoPartOfThePool) {
  maps.backend(2).state = WEIR_BE_DRAINING;
  maps.fail_connects(2, 3);
  maps.fail_connects(0, 3);
  EXPECT_EQ(look().backends.size(), 1U);
  EXPECT_FALSE(tracker.panic("chat"));  // 1 of 2
}

TEST_F(TrackerTest, ForgetsABackendThatIsGone) {
  maps.fail_connects(0, 3);
  look();
  const auto gone = maps.snapshot.backends.front();
  maps.snapshot.backends.erase(maps.snapshot.backends.begin());
  look();
  maps.snapshot.backends.push_back(gone);
  maps.snapshot.backends.back().consecutive_failures = 0;
  EXPECT_TRUE(look().backends.empty());
  EXPECT_EQ(tracker.state(key_of(gone)), BreakerState::kClosed);
}

TEST_F(TrackerTest, PoolsAreJudgedApart) {
  maps.add_service("embed", "127.111.0.11:80", {"127.0.0.1:1"});
  maps.fail_connects(3, 3);
  look();
  EXPECT_TRUE(tracker.panic("embed"));
  EXPECT_FALSE(tracker.panic("chat"));
  EXPECT_EQ(tracker.state({"chat", endpoint_of("127.0.0.1:1")}), BreakerState::kClosed);
}

}  // namespace
}  // namespace weir::health
