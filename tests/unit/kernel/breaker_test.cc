// SPDX-License-Identifier: Apache-2.0
//
// The breaker word of the kernel programs, against its rules written down a second time, and under
// threads.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "bpf/lib/breaker.bpf.h"

namespace weir::kernel {
namespace {

constexpr weir_knobs kKnobs = {.open_after_failures = 3,
                               .open_ms = 5000,
                               .max_open_ms = 60000,
                               .explain_pool = 0,
                               .watch_until_ns = 0,
                               .explain_until_ns = 0,
                               .trace_until_ns = 0,
                               .explain_one_in = 0,
                               .serves_here = 0};

/// One breaker with its clock; the random part of open times is off.
class Breaker {
 public:
  explicit Breaker(weir_knobs knobs = kKnobs) : knobs_(knobs) {}

  weir_breaker_change fail(bool probe, std::uint32_t consecutive) {
    weir_breaker_change change{};
    weir_breaker_failure(&word_, probe, consecutive, now_ms_, random_, &knobs_, &change);
    return change;
  }
  weir_breaker_change succeed(bool probe) {
    weir_breaker_change change{};
    weir_breaker_success(&word_, probe, &change);
    return change;
  }
  bool take_token(weir_breaker_change* change = nullptr) {
    weir_breaker_change ignored{};
    return weir_breaker_take_token(&word_, now_ms_, &knobs_, change ? change : &ignored) != 0;
  }
  [[nodiscard]] bool admits() const { return weir_breaker_admits(word_, now_ms_) != 0; }
  [[nodiscard]] weir_breaker parts() const { return weir_breaker_unpack(word_); }
  void advance(std::uint64_t ms) { now_ms_ += ms; }
  void set_random(std::uint32_t random) { random_ = random; }
  [[nodiscard]] std::uint64_t now_ms() const { return now_ms_; }

  /// Opens it by three failures.
  void trip() {
    for (std::uint32_t i = 1; i <= 3; ++i) fail(false, i);
  }

 private:
  weir_knobs knobs_;
  weir_u64 word_ = 0;
  std::uint64_t now_ms_ = 1'000'000;
  std::uint32_t random_ = 0;
};

TEST(KernelBreaker, WordSurvivesTheRoundTrip) {
  weir_breaker breaker{};
  breaker.state = WEIR_BREAKER_HALF_OPEN;
  breaker.level = 15;
  breaker.round = 3;
  breaker.tokens = 8;
  breaker.successes = 7;
  breaker.until_ms = (1ULL << 48) - 1;
  const weir_breaker again = weir_breaker_unpack(weir_breaker_pack(&breaker));
  EXPECT_EQ(again.state, breaker.state);
  EXPECT_EQ(again.level, breaker.level);
  EXPECT_EQ(again.round, breaker.round);
  EXPECT_EQ(again.tokens, breaker.tokens);
  EXPECT_EQ(again.successes, breaker.successes);
  EXPECT_EQ(again.until_ms, breaker.until_ms);
}

TEST(KernelBreaker, OpensAtTheThirdFailureInARow) {
  Breaker breaker;
  EXPECT_FALSE(breaker.fail(false, 1).changed);
  EXPECT_FALSE(breaker.fail(false, 2).changed);
  EXPECT_TRUE(breaker.admits());
  const auto change = breaker.fail(false, 3);
  EXPECT_TRUE(change.changed);
  EXPECT_EQ(change.from, weir_u32{WEIR_BREAKER_CLOSED});
  EXPECT_EQ(change.to, weir_u32{WEIR_BREAKER_OPEN});
  EXPECT_EQ(change.open_ms, 5000U);
  EXPECT_FALSE(breaker.admits());
  EXPECT_FALSE(breaker.fail(false, 4).changed);  // counted, but nothing new
  breaker.advance(4999);
  EXPECT_FALSE(breaker.admits());
  EXPECT_FALSE(breaker.take_token());
  breaker.advance(1);
  EXPECT_TRUE(breaker.admits());
}

TEST(KernelBreaker, HalfOpenHandsOutOneTwoFourEightTokensThenCloses) {
  Breaker breaker;
  breaker.trip();
  breaker.advance(5000);
  for (const int tokens : {1, 2, 4, 8}) {
    for (int i = 0; i < tokens; ++i) ASSERT_TRUE(breaker.take_token()) << tokens;
    ASSERT_FALSE(breaker.take_token()) << tokens;
    ASSERT_FALSE(breaker.admits());
    for (int i = 0; i < tokens; ++i) {
      const auto change = breaker.succeed(true);
      ASSERT_EQ(change.changed != 0, tokens == 8 && i == 7);
    }
  }
  EXPECT_EQ(breaker.parts().state, weir_u32{WEIR_BREAKER_CLOSED});
  EXPECT_EQ(breaker.parts().level, 0U);
}

TEST(KernelBreaker, OneFailureReopensForTwiceTheTimeUpToTheLimit) {
  Breaker breaker;
  breaker.trip();
  std::uint64_t open_ms = 5000;
  for (int relapse = 1; relapse < 40; ++relapse) {
    breaker.advance(open_ms);
    ASSERT_TRUE(breaker.take_token());
    const auto change = breaker.fail(true, 1);
    open_ms = std::min<std::uint64_t>(open_ms * 2, 60000);
    ASSERT_TRUE(change.changed);
    ASSERT_EQ(change.from, weir_u32{WEIR_BREAKER_HALF_OPEN});
    ASSERT_EQ(change.open_ms, open_ms);
    breaker.advance(open_ms - 1);
    ASSERT_FALSE(breaker.admits());
    breaker.advance(1);
    ASSERT_TRUE(breaker.admits());
    breaker.advance(-open_ms);
  }
}

TEST(KernelBreaker, OutcomesOfEarlierConnectsDoNotMoveAHalfOpenBreaker) {
  Breaker breaker;
  breaker.trip();
  breaker.advance(5000);
  weir_breaker_change change{};
  ASSERT_TRUE(breaker.take_token(&change));
  EXPECT_TRUE(change.changed);
  EXPECT_EQ(change.to, weir_u32{WEIR_BREAKER_HALF_OPEN});
  EXPECT_FALSE(breaker.fail(false, 9).changed);
  EXPECT_FALSE(breaker.succeed(false).changed);
  EXPECT_EQ(breaker.parts().successes, 0U);
  EXPECT_EQ(breaker.parts().state, weir_u32{WEIR_BREAKER_HALF_OPEN});
}

TEST(KernelBreaker, TokenWithoutAnOutcomeIsReplacedAfterAnOpenTime) {
  Breaker breaker;
  breaker.trip();
  breaker.advance(5000);
  ASSERT_TRUE(breaker.take_token());
  breaker.advance(4999);
  EXPECT_FALSE(breaker.take_token());
  breaker.advance(1);
  EXPECT_TRUE(breaker.take_token());
  EXPECT_FALSE(breaker.take_token());
}

TEST(KernelBreaker, JitterAddsUpToAFifth) {
  for (const std::uint32_t random : {0U, 0x80000000U, 0xffffffffU}) {
    Breaker breaker;
    breaker.set_random(random);
    breaker.trip();
    const std::uint64_t open = breaker.parts().until_ms - breaker.now_ms();
    EXPECT_EQ(open, 5000 + (std::uint64_t{1000} * random >> 32));
  }
}

/// The rules once more, in plain variables.
struct Model {
  enum { kClosed, kOpen, kHalfOpen } state = kClosed;
  std::uint64_t until = 0;
  std::uint64_t relapses = 0;
  int round = 0, tokens = 0, successes = 0;

  [[nodiscard]] std::uint64_t open_time() const {
    std::uint64_t time = 5000;
    for (std::uint64_t i = 0; i < relapses && time < 60000; ++i) time *= 2;
    return std::min<std::uint64_t>(time, 60000);
  }
  bool take_token(std::uint64_t now) {
    if (state == kClosed) return false;
    if (state == kOpen) {
      if (now < until) return false;
      state = kHalfOpen;
      round = successes = 0;
      tokens = 1;
    }
    if (tokens == 0 && now < until) return false;
    if (tokens > 0) --tokens;
    until = now + open_time();
    return true;
  }
  void succeed(bool probe) {
    if (state != kHalfOpen || !probe) return;
    if (++successes < 1 << round) return;
    successes = 0;
    tokens = 1 << ++round;
    if (round == 4) *this = {};
  }
  void fail(bool probe, std::uint32_t consecutive, std::uint64_t now) {
    if (state == kOpen) return;
    if (state == kHalfOpen && !probe) return;
    if (state == kClosed && consecutive < 3) return;
    if (state == kHalfOpen && relapses < 15) ++relapses;
    state = kOpen;
    until = now + open_time();
    round = tokens = successes = 0;
  }
};

TEST(KernelBreaker, DoesWhatTheModelDoesWhateverComes) {
  std::mt19937 random(99);
  for (int life = 0; life < 500; ++life) {
    Breaker breaker;
    Model model;
    std::uint32_t consecutive = 0;
    for (int step = 0; step < 2000; ++step) {
      const bool probe = random() % 4 != 0;
      switch (random() % 4) {
        case 0:
          breaker.advance(random() % 4000);
          break;
        case 1:
          ASSERT_EQ(breaker.take_token(), model.take_token(breaker.now_ms()));
          break;
        case 2:
          consecutive = 0;
          breaker.succeed(probe);
          model.succeed(probe);
          break;
        default:
          if (random() % 3 == 0) {
            breaker.fail(probe, ++consecutive);
            model.fail(probe, consecutive, breaker.now_ms());
          }
      }
      const weir_breaker parts = breaker.parts();
      ASSERT_EQ(parts.state, static_cast<weir_u32>(model.state)) << "life " << life;
      if (model.state == Model::kClosed) continue;
      ASSERT_EQ(parts.until_ms, model.until);
      ASSERT_EQ(parts.tokens, static_cast<weir_u32>(model.tokens));
      ASSERT_EQ(parts.successes, static_cast<weir_u32>(model.successes));
    }
  }
}

TEST(KernelBreaker, OfManyThreadsOneOpensItAndOneGetsTheToken) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 200;
  for (int round = 0; round < kRounds; ++round) {
    weir_u64 word = 0;
    std::atomic<int> ready = 0, opened = 0, tokens = 0, half_opened = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        ++ready;
        while (ready < kThreads) {
        }
        weir_breaker_change change{};
        weir_breaker_failure(&word, 0, 3, 1000, 0, &kKnobs, &change);
        opened += static_cast<int>(change.changed);
        change = {};
        tokens += weir_breaker_take_token(&word, 1000 + 5000, &kKnobs, &change);
        half_opened += static_cast<int>(change.changed);
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(opened, 1);
    ASSERT_EQ(half_opened, 1);
    ASSERT_EQ(tokens, 1);
  }
}

}  // namespace
}  // namespace weir::kernel
