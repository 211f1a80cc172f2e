// SPDX-License-Identifier: Apache-2.0
#include "agent/health/tracker.h"

#include <gtest/gtest.h>

#include "tests/fixtures/fake_maps.h"

namespace weir::health {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class TrackerTest : public testing::Test {
 protected:
  TrackerTest() {
    maps.snapshot.taken = TimePoint(seconds(3600));
    maps.add_service("chat", "127.111.0.10:80", {"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"});
  }
  Changes look() { return tracker.observe(maps.snapshot); }

  FakeMaps maps;
  Tracker tracker;
};

TEST_F(TrackerTest, TellsEachChangeAsOneLine) {
  look();
  maps.fail_connects(1, 4);
  maps.open(1, milliseconds(5400));
  const Changes changes = look();
  ASSERT_EQ(changes.backends.size(), 1U);
  EXPECT_TRUE(changes.pools.empty());
  EXPECT_EQ(to_log_line(changes.backends[0]),
            "breaker service=chat backend=127.0.0.1:2 from=closed to=open level=0 "
            "consecutive_failures=4 open_ms=5400");
  EXPECT_TRUE(look().backends.empty());
  maps.half_open(1);
  EXPECT_EQ(to_log_line(look().backends.at(0)),
            "breaker service=chat backend=127.0.0.1:2 from=open to=half_open level=0 "
            "consecutive_failures=4");
  maps.open(1, seconds(10));
  EXPECT_EQ(to_log_line(look().backends.at(0)),
            "breaker service=chat backend=127.0.0.1:2 from=half_open to=open level=1 "
            "consecutive_failures=4 open_ms=10000");
  maps.close(1);
  EXPECT_EQ(to_log_line(look().backends.at(0)),
            "breaker service=chat backend=127.0.0.1:2 from=open to=closed level=0 "
            "consecutive_failures=0");
}

TEST_F(TrackerTest, SeesThatABreakerWasTriedAndOpenedBetweenTwoReadings) {
  maps.open(0, seconds(5));
  look();
  maps.half_open(0);
  maps.open(0, seconds(10));
  const Changes changes = look();
  ASSERT_EQ(changes.backends.size(), 1U);
  EXPECT_EQ(changes.backends[0].from, WEIR_BREAKER_OPEN);
  EXPECT_EQ(changes.backends[0].to, WEIR_BREAKER_OPEN);
  EXPECT_EQ(changes.backends[0].level, 1U);
  EXPECT_EQ(changes.backends[0].open_for, seconds(10));
  EXPECT_TRUE(look().backends.empty());
}

TEST_F(TrackerTest, AnOpenTimeThatIsOverIsNotNegative) {
  maps.open(0, seconds(-1));
  EXPECT_EQ(look().backends.at(0).open_for, Duration::zero());
}

TEST_F(TrackerTest, SaysWhatAnAdoptedMapIsLike) {
  maps.open(2, seconds(5));
  maps.backend(0).breaker_opens = 7;  // long ago
  const Changes changes = look();
  ASSERT_EQ(changes.backends.size(), 1U);
  EXPECT_EQ(changes.backends[0].backend, key_of(maps.backend(2)));
  EXPECT_EQ(changes.backends[0].from, WEIR_BREAKER_CLOSED);
}

TEST_F(TrackerTest, PanicsWhenMoreThanHalfAreOpen) {
  maps.open(0, seconds(5));
  EXPECT_TRUE(look().pools.empty());  // 1 of 3
  EXPECT_FALSE(tracker.panic("chat"));
  maps.open(1, seconds(5));
  const Changes changes = look();  // 2 of 3
  ASSERT_EQ(changes.pools.size(), 1U);
  EXPECT_EQ(to_log_line(changes.pools[0]), "panic service=chat on=true open=2 backends=3");
  EXPECT_TRUE(tracker.panic("chat"));
  EXPECT_TRUE(look().pools.empty());

  maps.half_open(0);  // tried, which is not usable yet
  EXPECT_TRUE(look().pools.empty());
  maps.close(0);
  const Changes after = look();
  ASSERT_EQ(after.pools.size(), 1U);
  EXPECT_EQ(to_log_line(after.pools[0]), "panic service=chat on=false open=1 backends=3");
  EXPECT_FALSE(tracker.panic("chat"));
}

TEST_F(TrackerTest, HalfOfAPoolIsEnough) {
  maps.add_service("embed", "127.111.0.11:80", {"127.0.0.1:1", "127.0.0.1:2"});
  maps.open(3, seconds(5));
  look();
  EXPECT_FALSE(tracker.panic("embed"));
}

TEST_F(TrackerTest, AServiceThatRefusesNeverPanics) {
  maps.service(0).refuse_when_empty = true;
  for (std::size_t i = 0; i < 3; ++i) maps.open(i, seconds(5));
  const Changes changes = look();
  EXPECT_EQ(changes.backends.size(), 3U);
  EXPECT_TRUE(changes.pools.empty());
  EXPECT_FALSE(tracker.panic("chat"));
}

TEST_F(TrackerTest, AServiceWithAUsableBackupDoesNotPanic) {
  maps.add_backup(0, {"127.0.0.1:8", "127.0.0.1:9"});
  for (std::size_t i = 0; i < 4; ++i) maps.open(i, seconds(5));
  EXPECT_TRUE(look().pools.empty());
  EXPECT_FALSE(tracker.panic("chat"));
  maps.open(4, seconds(5));
  const Changes changes = look();
  ASSERT_EQ(changes.pools.size(), 1U) << "and the backup pool itself does not count";
  EXPECT_EQ(to_log_line(changes.pools[0]), "panic service=chat on=true open=3 backends=3");
  maps.close(4);
  EXPECT_FALSE(look().pools.at(0).panic);
}

TEST_F(TrackerTest, DrainingBackendsAreOfNoInterest) {
  maps.backend(2).state = WEIR_BE_DRAINING;
  maps.open(2, seconds(5));
  EXPECT_TRUE(look().backends.empty());
}

TEST_F(TrackerTest, AnIndexThatIsUsedAgainIsAnotherBackend) {
  maps.open(0, seconds(5));
  look();
  maps.backend(0).address = endpoint_of("127.0.0.1:4");
  const Changes changes = look();
  ASSERT_EQ(changes.backends.size(), 1U);
  EXPECT_EQ(changes.backends[0].backend, key_of(maps.backend(0)));
  EXPECT_EQ(changes.backends[0].from, WEIR_BREAKER_CLOSED);
}

TEST_F(TrackerTest, AServiceThatIsGoneIsNotInPanicWhenItComesBack) {
  for (std::size_t i = 0; i < 3; ++i) maps.open(i, seconds(5));
  look();
  const auto gone = maps.snapshot;
  maps.snapshot.backends.clear();
  maps.snapshot.services.clear();
  EXPECT_TRUE(look().pools.empty());
  EXPECT_FALSE(tracker.panic("chat"));
  maps.snapshot = gone;
  EXPECT_EQ(look().pools.size(), 1U);
}

}  // namespace
}  // namespace weir::health
