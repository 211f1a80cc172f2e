// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/census.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <list>
#include <random>
#include <string>
#include <vector>

#include "bpf/lib/census.bpf.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

// ---- what a run does with one socket ----

constexpr weir_u64 kNow = 100 * WEIR_SILENCE_NS;

weir_sk socket_in(weir_phase phase, std::uint32_t flags = 0) {
  weir_sk sk{};
  sk.phase = phase;
  sk.owned = phase == WEIR_PHASE_CLOSED ? 0 : 1;
  sk.flags = flags;
  return sk;
}

TEST(CensusOfASocket, CountsWhatItHolds) {
  weir_census census{};
  for (const weir_phase phase : {WEIR_PHASE_IDLE, WEIR_PHASE_FRESH, WEIR_PHASE_WAITING,
                                 WEIR_PHASE_WAITING, WEIR_PHASE_STREAMING, WEIR_PHASE_CLOSED}) {
    const weir_sk sk = socket_in(phase);
    weir_census_count(&sk, &census);
    const weir_sk server = socket_in(phase, WEIR_SK_SERVER);
    weir_census_count(&server, &census);
  }
  EXPECT_EQ(census.in_flight, 5U);
  EXPECT_EQ(census.fresh, 1U);
  EXPECT_EQ(census.waiting, 2U);
  EXPECT_EQ(census.streaming, 1U);
}

TEST(CensusOfASocket, SilenceEndsAResponse) {
  weir_be be{};
  be.streaming = 1;
  weir_sk sk = socket_in(WEIR_PHASE_STREAMING);
  sk.begin_ns = kNow - 3 * WEIR_SILENCE_NS;
  sk.last_byte_ns = kNow - WEIR_SILENCE_NS;
  EXPECT_EQ(weir_census_silence(&sk, &be, kNow - 1).over, 0U);
  EXPECT_EQ(sk.phase, weir_u32{WEIR_PHASE_STREAMING});
  const weir_request_event event = weir_census_silence(&sk, &be, kNow);
  EXPECT_EQ(event.over, 1U);
  EXPECT_EQ(event.duration_ns, 2 * WEIR_SILENCE_NS) << "the silence is no part of it";
  EXPECT_EQ(sk.phase, weir_u32{WEIR_PHASE_IDLE});
  EXPECT_EQ(be.streaming, 0U);
}

TEST(CensusOfASocket, AConnectionOpenedInAdvanceIsNoLoad) {
  weir_be be{};
  be.fresh = 1;
  weir_sk sk = socket_in(WEIR_PHASE_FRESH);
  sk.opened_ns = kNow - WEIR_SILENCE_NS;
  sk.connect_ns = sk.opened_ns;  // still connecting
  weir_census_silence(&sk, &be, kNow + 10 * WEIR_SILENCE_NS);
  EXPECT_EQ(sk.phase, weir_u32{WEIR_PHASE_FRESH}) << "a connect under way is load";
  sk.connect_ns = 0;
  weir_census_silence(&sk, &be, kNow - 1);
  EXPECT_EQ(sk.phase, weir_u32{WEIR_PHASE_FRESH});
  weir_census_silence(&sk, &be, kNow);
  EXPECT_EQ(sk.phase, weir_u32{WEIR_PHASE_IDLE});
  EXPECT_EQ(be.fresh, 0U);
}

TEST(CensusOfASocket, AWaitingRequestIsNeverSilent) {
  weir_be be{};
  be.waiting = 1;
  weir_sk sk = socket_in(WEIR_PHASE_WAITING);
  weir_census_silence(&sk, &be, kNow);
  EXPECT_EQ(sk.phase, weir_u32{WEIR_PHASE_WAITING});
  EXPECT_EQ(be.waiting, 1U);
}

TEST(CensusOfASocket, BytesAreAddedOnceWhoeverComesLast) {
  weir_u64 counted = 0;
  weir_u64 sum = 0;
  weir_count_bytes(&counted, 100, &sum);
  weir_count_bytes(&counted, 100, &sum);
  EXPECT_EQ(sum, 100U);
  weir_count_bytes(&counted, 250, &sum);
  EXPECT_EQ(sum, 250U);
  weir_count_bytes(&counted, 180, &sum);  // read before the 250, added after them
  EXPECT_EQ(sum, 250U);
}

struct IdleCase {
  weir_phase phase;
  std::uint32_t flags;
  weir_tcp tcp;
  int idle;
};

TEST(CensusOfASocket, OnlyWhatIsSurelyIdleMayBeEnded) {
  const weir_tcp quiet{};
  const weir_tcp unread{0, 0, 1, 0};
  const weir_tcp unacked{0, 0, 0, 1};
  const std::array cases = {
      IdleCase{WEIR_PHASE_IDLE, WEIR_SK_DIRECT, quiet, 1},
      IdleCase{WEIR_PHASE_FRESH, WEIR_SK_DIRECT, quiet, 1},
      IdleCase{WEIR_PHASE_WAITING, WEIR_SK_DIRECT, quiet, 0},
      IdleCase{WEIR_PHASE_CLOSED, WEIR_SK_DIRECT, quiet, 0},
      IdleCase{WEIR_PHASE_IDLE, WEIR_SK_DIRECT, unread, 0},
      IdleCase{WEIR_PHASE_IDLE, WEIR_SK_DIRECT, unacked, 0},
      IdleCase{WEIR_PHASE_IDLE, WEIR_SK_DIRECT | WEIR_SK_SERVER, quiet, 0},
      IdleCase{WEIR_PHASE_IDLE, WEIR_SK_ADOPTED, quiet, 0},
      IdleCase{WEIR_PHASE_IDLE, 0, quiet, 0},  // adopted, with requests since
      IdleCase{WEIR_PHASE_IDLE, WEIR_SK_DIRECT | WEIR_SK_MUX, quiet, 0},
      IdleCase{WEIR_PHASE_IDLE, WEIR_SK_TLS | WEIR_SK_DIRECT, quiet, 1},
  };
  for (const IdleCase& each : cases) {
    const weir_sk sk = socket_in(each.phase, each.flags);
    EXPECT_EQ(weir_census_idle(&sk, &each.tcp, kNow), each.idle)
        << "phase " << each.phase << " flags " << each.flags;
  }
  weir_sk sk = socket_in(WEIR_PHASE_STREAMING);
  sk.service.port = 80;
  sk.last_byte_ns = kNow - WEIR_SILENCE_NS;
  EXPECT_TRUE(weir_census_idle(&sk, &quiet, kNow));
  EXPECT_FALSE(weir_census_idle(&sk, &quiet, kNow - 1));
  sk = socket_in(WEIR_PHASE_IDLE, WEIR_SK_DIRECT);
  sk.owned = 0;
  EXPECT_FALSE(weir_census_idle(&sk, &quiet, kNow));
}

// ---- the maps ----

/// Sockets as the kernel has them, and programs that are somewhere between two of their stores.
/// While a recount goes from socket to socket, they go on.
class World final : public Recounter {
 public:
  World(unsigned seed, std::size_t cpus, double steps_per_socket)
      : random_(seed), running_(cpus), steps_per_socket_(steps_per_socket) {}

  weir_be& be() { return backends_[0]; }
  weir_total& total() { return totals_[0]; }
  Census census() { return Census({pools_, backends_, totals_, slots_, counts_}); }
  [[nodiscard]] std::size_t sockets() const { return sockets_.size(); }
  void keep_about(std::size_t sockets) { target_ = sockets; }

  void step() {
    const std::size_t cpu = random_() % running_.size();
    Program& program = running_[cpu];
    if (program.empty()) {
      program = begin();
      ++begun_[cpu];
    }
    if (program.empty()) return;
    program.front()();
    program.erase(program.begin());
  }
  void run(int steps) {
    for (int i = 0; i < steps; ++i) step();
  }
  /// No program is in the middle of anything.
  void finish() {
    for (Program& program : running_) {
      for (auto& store : program) store();
      program.clear();
    }
  }

  Status settle(TimePoint) override { return {}; }
  Result<SweepResult> recount() override {
    std::uint64_t seen = 0;
    for (auto at = sockets_.begin(); at != sockets_.end(); ++at, ++seen) {
      weir_census_count(&at->sk, &counts_[0]);
      // Another CPU does something now and then while this one looks at a socket.
      at->visited = true;
      while (unit_(random_) < steps_per_socket_) step();
      at->visited = false;
      purge(at);
    }
    return SweepResult{seen, 0, 0, 0, 0};
  }
  void wait_for_programs() override {
    // Others begin meanwhile, and are in the middle of something when these have ended.
    const std::vector<int> at_first = begun_;
    const auto all_ended = [&] {
      for (std::size_t cpu = 0; cpu < running_.size(); ++cpu) {
        if (begun_[cpu] == at_first[cpu] && !running_[cpu].empty()) return false;
      }
      return true;
    };
    while (!all_ended()) step();
  }

 private:
  struct Socket {
    weir_sk sk{};
    bool busy = false;     ///< a program is at work on it
    bool visited = false;  ///< the recount stands here
    bool gone = false;
  };
  using Program = std::vector<std::function<void()>>;
  using Iterator = std::list<Socket>::iterator;

  /// Sockets that are gone, but for the one where the recount stands.
  void purge(Iterator keep) {
    for (auto at = sockets_.begin(); at != sockets_.end();) {
      at = at->gone && at != keep ? sockets_.erase(at) : std::next(at);
    }
  }

  Program begin() {
    const bool grow = sockets_.size() < target_ ? random_() % 4 != 0 : random_() % 4 == 0;
    if (grow && random_() % 2 == 0) return connect();
    if (sockets_.empty()) return {};
    auto at = std::next(sockets_.begin(), static_cast<long>(random_() % sockets_.size()));
    if (at->busy || at->gone) return {};
    if (!grow && random_() % 2 == 0) return close(*at);
    if (at->sk.phase == WEIR_PHASE_WAITING) return respond(*at);
    return request(*at);
  }

  // The stores of the programs, in the order of bpf/observe.bpf.c and bpf/lib/request.bpf.h.
  Program connect() {
    auto at = std::next(sockets_.begin(), static_cast<long>(random_() % (sockets_.size() + 1)));
    Socket& socket = *sockets_.insert(at, Socket{});
    socket.busy = true;
    socket.sk.phase = WEIR_PHASE_CLOSED;
    return {[this] { ++be().in_flight; }, [this] { ++be().fresh; }, [this] { ++total().connects; },
            [&socket] { socket.sk.phase = WEIR_PHASE_FRESH; },
            [&socket] {
              socket.sk.owned = 1;
              socket.busy = false;
            }};
  }
  Program move(Socket& socket, weir_phase to, bool count) {
    socket.busy = true;
    const weir_u32 from = socket.sk.phase;
    return {[this, to] { ++*weir_phase_gauge(&be(), to); }, [&socket, to] { socket.sk.phase = to; },
            [this, from] {
              if (weir_u32* const left = weir_phase_gauge(&be(), from)) --*left;
            },
            [this, &socket, count] {
              if (count) ++total().requests;
              socket.busy = false;
            }};
  }
  Program request(Socket& socket) { return move(socket, WEIR_PHASE_WAITING, false); }
  Program respond(Socket& socket) { return move(socket, WEIR_PHASE_STREAMING, true); }
  Program close(Socket& socket) {
    socket.busy = true;
    const weir_u32 from = socket.sk.phase;
    return {[&socket] { socket.sk.phase = WEIR_PHASE_CLOSED; },
            [this, from] {
              if (weir_u32* const left = weir_phase_gauge(&be(), from)) --*left;
            },
            [&socket] { socket.sk.owned = 0; },
            [this, &socket] {
              --be().in_flight;
              socket.gone = true;
            }};
  }

  std::mt19937 random_;
  std::uniform_real_distribution<double> unit_{0, 1};
  std::vector<Program> running_;                                ///< by CPU
  std::vector<int> begun_ = std::vector<int>(running_.size());  ///< by CPU
  const double steps_per_socket_;
  std::size_t target_ = 40;
  std::list<Socket> sockets_;
  std::vector<weir_pool> pools_ = std::vector<weir_pool>(2);
  std::vector<weir_total> totals_ = std::vector<weir_total>(2);
  std::vector<weir_be> backends_ = [] {
    std::vector<weir_be> backends(2);
    backends[0].state = WEIR_BE_ACTIVE;
    return backends;
  }();
  std::vector<weir_pick_slot> slots_ = std::vector<weir_pick_slot>(4);
  std::vector<weir_census> counts_ = std::vector<weir_census>(2);
};

struct Traffic {
  const char* name;
  double steps_per_socket;  ///< probability that a store happens while one socket is counted
};

class CensusUnderTraffic : public testing::TestWithParam<Traffic> {};

TEST_P(CensusUnderTraffic, NeverCorrectsARace) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    World world(seed, 2, GetParam().steps_per_socket);
    Census census = world.census();
    for (int i = 0; i < 500; ++i) {
      world.keep_about(i / 50 % 2 == 0 ? 60 : 10);
      world.run(static_cast<int>(seed) * 10 + 17);
      ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
      ASSERT_EQ(census.report().corrected, 0U) << "seed " << seed << ", census " << i;
    }
  }
}

TEST_P(CensusUnderTraffic, NeverCorrectsMoreThanWentWrong) {
  for (unsigned seed = 0; seed < 10; ++seed) {
    World world(seed, 2, GetParam().steps_per_socket);
    Census census = world.census();
    std::uint64_t injected = 0;
    for (int i = 0; i < 300; ++i) {
      world.run(200);
      if (i % 30 == 10) {
        world.be().in_flight += 2;
        world.be().streaming += 1;
        injected += 3;
      }
      ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
      ASSERT_LE(census.report().corrected, injected) << "seed " << seed << ", census " << i;
    }
    // At the latest when it is quiet, everything is put right.
    world.finish();
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
    EXPECT_EQ(census.report().drift, 0U);
    EXPECT_EQ(census.report().corrected, injected);
  }
}

INSTANTIATE_TEST_SUITE_P(Rates, CensusUnderTraffic,
                         testing::Values(Traffic{"Slow", 0.001}, Traffic{"Brisk", 0.02},
                                         Traffic{"Furious", 0.3}),
                         [](const auto& each) { return std::string(each.param.name); });

TEST(CensusRule, ATrueErrorIsCorrectedWithinTwoCensuses) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    World world(seed, 2, 0);  // connections come and go, but not during the recount itself
    Census census = world.census();
    for (int i = 0; i < 20; ++i) {
      world.run(300);
      world.finish();
      const std::uint64_t before = census.report().corrected;
      world.be().in_flight += 1 + seed % 3;
      world.be().waiting += 1;
      ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
      EXPECT_EQ(census.report().drift, 2 + seed % 3);
      EXPECT_EQ(census.report().corrected, before);
      world.run(300);
      world.finish();
      ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
      EXPECT_EQ(census.report().corrected, before + 2 + seed % 3);
      ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
      EXPECT_EQ(census.report().drift, 0U);
    }
  }
}

TEST(CensusRule, ATrueErrorIsFoundInTrafficToo) {
  int found = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    World world(seed, 2, 0.002);
    Census census = world.census();
    world.run(2000);
    world.be().in_flight += 1;
    for (int i = 0; i < 10; ++i) {
      world.run(200);
      ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
    }
    ASSERT_LE(census.report().corrected, 1U);
    found += static_cast<int>(census.report().corrected);
  }
  EXPECT_EQ(found, 20);
}

TEST(CensusRule, ARecordThatChangesHandsStartsAnew) {
  World world(1, 2, 0);
  Census census = world.census();
  world.total().since_ns = 5;
  world.be().in_flight = 3;
  ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
  EXPECT_EQ(census.report().drift, 3U);
  world.total().since_ns = 6;
  ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
  EXPECT_EQ(census.report().corrected, 0U) << "seen once of this record";
  ASSERT_TRUE(census.run(world, TimePoint(1s)).ok());
  EXPECT_EQ(census.report().corrected, 3U);
}

}  // namespace
}  // namespace weir::kernel
