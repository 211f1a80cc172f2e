// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/watch_loop.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <deque>
#include <vector>

#include "agent/ctl/watch_command.h"
#include "tests/fixtures/fake_clock.h"

namespace weir::ctl {
namespace {

using namespace std::chrono_literals;

/// Gives one batch per read, then nothing; takes as long for a read as it is told.
class FakeSource final : public kernel::EventSource {
 public:
  explicit FakeSource(FakeClock& clock) : clock_(clock) {}

  Result<std::vector<kernel::Event>> read() override {
    ++reads;
    clock_.advance(read_takes);
    if (batches.empty()) return std::vector<kernel::Event>{};
    std::vector<kernel::Event> events;
    for (const std::uint64_t cookie : batches.front()) {
      kernel::FailureEvent event;
      event.head.time = clock_.now();
      event.head.cookie = cookie;
      events.emplace_back(event);
    }
    batches.pop_front();
    return events;
  }
  Status renew() override {
    renewed_at.push_back(clock_.now());
    return gone ? Status(make_error(Code::kUnavailable, "gone")) : Status();
  }
  Result<kernel::EventLosses> losses() override { return lost; }

  std::deque<std::vector<std::uint64_t>> batches;
  std::vector<TimePoint> renewed_at;
  kernel::EventLosses lost;
  Duration read_takes{};
  int reads = 0;
  bool gone = false;

 private:
  FakeClock& clock_;
};

/// Prints the cookie; cookie 0 is not wanted.
class CookiePrinter final : public EventPrinter {
 public:
  std::optional<std::string> print(const kernel::Event& event, WallTime when) override {
    last = when;
    const std::uint64_t cookie = kernel::head_of(event).cookie;
    if (cookie == 0) return std::nullopt;
    return std::to_string(cookie) + " ";
  }
  std::string print_losses(const kernel::EventLosses& since_last, WallTime) override {
    return "lost" + std::to_string(since_last.records) + " ";
  }
  WallTime last;
};

/// Moves the clock instead of waiting; stops after so many.
class FakePause final : public Pause {
 public:
  FakePause(FakeClock& clock, int rounds) : rounds_(rounds), clock_(clock) {}
  bool wait(std::chrono::milliseconds time) override {
    waited.push_back(time);
    clock_.advance(time);
    return --rounds_ > 0;
  }
  std::vector<std::chrono::milliseconds> waited;

 private:
  int rounds_;
  FakeClock& clock_;
};

class WatchLoop : public testing::Test {
 protected:
  Status run(int rounds, std::optional<std::uint64_t> count = {}) {
    FakePause pause(clock, rounds);
    Status ended = watch(source, printer, count, pause, clock, [this](std::string_view text) {
      output += text;
      return output_status;
    });
    waited = pause.waited;
    return ended;
  }

  FakeClock clock;
  FakeSource source{clock};
  CookiePrinter printer;
  std::string output;
  Status output_status;
  std::vector<std::chrono::milliseconds> waited;
};

TEST_F(WatchLoop, PrintsWhatHappenedBeforeTheStop) {
  source.batches = {{1, 2}, {}, {3}};
  ASSERT_TRUE(run(2).ok());
  EXPECT_EQ(output, "1 2 3 ") << "3 came after the second wait, in which the stop was noticed";
}

TEST_F(WatchLoop, DoesNotWaitWhileRecordsCome) {
  source.batches = {{1}, {2}, {}};
  ASSERT_TRUE(run(4).ok());
  EXPECT_EQ(waited, (std::vector<std::chrono::milliseconds>{0ms, 0ms, 10ms, 10ms}));
}

TEST_F(WatchLoop, StopsAtTheCountWithinABatch) {
  source.batches = {{0, 1, 0, 2, 3}};
  ASSERT_TRUE(run(100, 2).ok());
  EXPECT_EQ(output, "1 2 ");
  EXPECT_EQ(source.reads, 1) << "what is not wanted does not count";
}

TEST_F(WatchLoop, RenewsEverySecondAndNotMore) {
  const TimePoint begin = clock.now();
  ASSERT_TRUE(run(250).ok());
  ASSERT_EQ(source.renewed_at.size(), 2U);
  EXPECT_EQ(source.renewed_at[0] - begin, 1s);
  EXPECT_EQ(source.renewed_at[1] - begin, 2s);
}

TEST_F(WatchLoop, RenewsAlsoInAFlood) {
  source.batches.assign(300, {1});
  source.read_takes = 10ms;
  ASSERT_TRUE(run(250).ok());
  EXPECT_EQ(source.renewed_at.size(), 2U);
}

TEST_F(WatchLoop, TellsEachLossOnce) {
  source.lost.records = 5;
  ASSERT_TRUE(run(350).ok());
  EXPECT_EQ(output, "lost5 ");
}

TEST_F(WatchLoop, TellsALossAtTheEndToo) {
  source.lost.records = 5;
  ASSERT_TRUE(run(1).ok());
  EXPECT_EQ(output, "lost5 ");
}

TEST_F(WatchLoop, EndsWithAnErrorWhenThereIsNothingToWatch) {
  source.gone = true;
  const Status ended = run(1000);
  ASSERT_FALSE(ended.ok());
  EXPECT_EQ(ended.error().code, Code::kUnavailable);
  EXPECT_EQ(source.renewed_at.size(), 1U);
}

TEST_F(WatchLoop, AClosedOutputIsAnEndLikeAnyOther) {
  source.batches = {{1}, {2}};
  output_status = os_error(EPIPE, "write");
  EXPECT_TRUE(run(100).ok());
  EXPECT_EQ(source.reads, 1);
}

TEST_F(WatchLoop, AFullDiskIsNot) {
  source.batches = {{1}, {2}};
  output_status = os_error(ENOSPC, "write");
  const Status ended = run(100);
  ASSERT_FALSE(ended.ok());
  EXPECT_EQ(ended.error().os_errno, ENOSPC);
}

TEST_F(WatchLoop, TimesAreThoseOfTheEventsNotOfTheirReading) {
  source.batches = {{1}};
  const WallTime before = std::chrono::system_clock::now();
  ASSERT_TRUE(run(1).ok());
  EXPECT_GE(printer.last, before);
  EXPECT_LE(printer.last, std::chrono::system_clock::now());
}

TEST(FindService, KnowsItByName) {
  kernel::Snapshot snapshot;
  for (const char* const name : {"chat", "embed"}) {
    kernel::ServiceReading service;
    service.pool = static_cast<std::uint32_t>(snapshot.services.size()) + 3;
    service.name = name;
    service.address.port = 80;
    snapshot.services.push_back(service);
  }
  EXPECT_EQ(find_service(snapshot, "embed").value(), 4U);
}

TEST(FindService, NamesThoseThatThereAre) {
  kernel::Snapshot snapshot;
  EXPECT_EQ(find_service(snapshot, "caht").error().message,
            "no service is called \"caht\"; none is configured");
  snapshot.services.resize(3);
  snapshot.services[0].name = "chat";
  snapshot.services[0].address.port = 80;
  snapshot.services[1].name = "chat.backup";  // no address: not a service of its own
  snapshot.services[2].name = "embed";
  snapshot.services[2].address.port = 80;
  const auto missing = find_service(snapshot, "chat.backup");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, Code::kInvalidArgument);
  EXPECT_EQ(missing.error().message, "no service is called \"chat.backup\"; there is: chat, embed");
}

}  // namespace
}  // namespace weir::ctl
