// SPDX-License-Identifier: Apache-2.0
//
// The explanation of a pick agrees with what happened: for each rule a situation that it decides,
// the record of each connect, and the backend that the connection really arrived at.
#include <algorithm>
#include <cerrno>
#include <functional>

#include "tests/bpf/watch_fixture.h"

namespace weir::kernel {
namespace {

using namespace std::chrono_literals;

/// Of draws between two equal backends one in four gives the same one twice: this many in a row
/// happen once in 10^30 runs.
constexpr int kPatience = 50;

class Explain : public WatchTest {
 protected:
  /// `backends` listeners behind one service of this policy, all of weight 1, explained.
  void start(weir_policy policy, std::size_t backends, bool refuse_when_empty = false) {
    for (std::size_t i = 0; i < backends; ++i) {
      listeners_.push_back(std::make_unique<TcpBackend>("127.0.0.1"));
    }
    start_with(service_of(policy, refuse_when_empty), backends);
  }
  ServiceSpec service_of(weir_policy policy, bool refuse_when_empty = false) {
    std::vector<Endpoint> addresses;
    for (const auto& listener : listeners_) addresses.push_back(listener->address());
    ServiceSpec spec = service(kWatchedService, addresses, refuse_when_empty);
    spec.policy = policy;
    return spec;
  }
  void start_with(const ServiceSpec& spec, std::size_t backends) {
    attach({spec}, std::vector<double>(backends, 1));
    watch({.picks = Watch::Picks{}});
  }

  std::string name(std::size_t i) { return listeners_.at(i)->address().to_string(); }

  /// The backend whose accept queue got a connection since `before`.
  std::string arrived_at(const std::vector<int>& before) {
    std::string where;
    EXPECT_TRUE(eventually([&] {
      for (std::size_t i = 0; i < listeners_.size(); ++i) {
        if (listeners_[i]->accepted() != before[i]) where = name(i);
      }
      return !where.empty();
    }));
    return where;
  }

  /// Connects once; the pick, which must be the only one and true.
  PickEvent pick() {
    std::vector<int> before;
    for (const auto& listener : listeners_) before.push_back(listener->accepted());
    const Connected connected = connect_once();
    EXPECT_EQ(connected.error, 0);
    const auto picks = only<PickEvent>(events());
    EXPECT_EQ(picks.size(), 1U);
    if (picks.size() != 1) return {};
    const PickEvent& record = picks.front();
    EXPECT_EQ(record.head.service, "service");
    EXPECT_EQ(record.head.cookie, connected.cookie);
    EXPECT_EQ(record.head.backend, arrived_at(before));
    const auto picked = std::count_if(record.candidates.begin(), record.candidates.end(),
                                      [&](const Candidate& each) {
                                        EXPECT_EQ(each.picked, each.backend == record.head.backend);
                                        return each.picked;
                                      });
    EXPECT_EQ(picked, 1);
    return record;
  }

  /// The first pick that `rule` decided; every one before it is checked, too.
  PickEvent pick_by(weir_rule rule, const std::function<void(const PickEvent&)>& check = {}) {
    for (int i = 0; i < kPatience; ++i) {
      const PickEvent record = pick();
      if (check) check(record);
      if (record.rule == rule || HasFailure()) return record;
    }
    ADD_FAILURE() << "no pick by rule " << rule;
    return {};
  }

  /// A load of 1 on this backend, there before the next pick.
  std::unique_ptr<Application> hold_at(std::size_t i) {
    const int before = listeners_.at(i)->accepted();
    auto application = hold(listeners_[i]->address());
    EXPECT_TRUE(eventually([&] { return listeners_[i]->accepted() == before + 1; }));
    return application;
  }

  static const Candidate& loser(const PickEvent& record) {
    return record.candidates.at(record.candidates.at(0).picked ? 1 : 0);
  }

  std::vector<std::unique_ptr<TcpBackend>> listeners_;
};

TEST_F(Explain, NobodyWhenThePoolIsEmpty) {
  start(WEIR_POLICY_PREQUAL, 0, true);
  const Connected connected = connect_once();
  EXPECT_EQ(connected.error, ECONNREFUSED);
  const auto picks = only<PickEvent>(events());
  ASSERT_EQ(picks.size(), 1U);
  EXPECT_EQ(picks[0].rule, WEIR_RULE_NONE);
  EXPECT_EQ(picks[0].head.backend, std::nullopt);
  EXPECT_EQ(picks[0].head.cookie, connected.cookie);
  EXPECT_TRUE(picks[0].candidates.empty()) << picks[0].candidates[0].backend;
}

TEST_F(Explain, TheOnlyOneOfWeightedRandom) {
  start(WEIR_POLICY_WEIGHTED_RANDOM, 2);
  for (int i = 0; i < 10; ++i) {
    const PickEvent record = pick();
    EXPECT_EQ(record.rule, WEIR_RULE_ONLY);
    EXPECT_EQ(record.policy, WEIR_POLICY_WEIGHTED_RANDOM);
    EXPECT_EQ(record.candidates.size(), 1U);
  }
}

TEST_F(Explain, TheOnlyOneWhoseBreakerIsClosed) {
  start(WEIR_POLICY_PREQUAL, 2);
  ASSERT_TRUE(plane_->open_breaker(0).ok());
  const PickEvent record = pick_by(
      WEIR_RULE_ONLY, [&](const PickEvent& each) { EXPECT_EQ(each.head.backend, name(1)); });
  ASSERT_EQ(record.candidates.size(), 1U);
  EXPECT_EQ(record.candidates[0].breaker, WEIR_BREAKER_CLOSED);
}

TEST_F(Explain, TheSameTwice) {
  start(WEIR_POLICY_PREQUAL, 1);
  const PickEvent record = pick();
  EXPECT_EQ(record.rule, WEIR_RULE_SAME);
  EXPECT_EQ(record.candidates.size(), 1U);
}

TEST_F(Explain, TheColdOne) {
  start(WEIR_POLICY_PREQUAL, 2);
  ASSERT_TRUE(plane_->set_rif_limits({{0, 0.5}}).ok());
  const auto load = hold_at(0);
  const PickEvent record = pick_by(WEIR_RULE_COLD);
  EXPECT_EQ(record.head.backend, name(1));
  EXPECT_EQ(record.policy, WEIR_POLICY_PREQUAL);
  EXPECT_EQ(record.rif_limit, 0.5);
  ASSERT_EQ(record.candidates.size(), 2U);
  EXPECT_EQ(loser(record).load, 1);
  EXPECT_TRUE(loser(record).hot);
  EXPECT_EQ(loser(record).weight, 1);
}

TEST_F(Explain, TheFasterOfTwoColdOnes) {
  start(WEIR_POLICY_PREQUAL, 2);
  ASSERT_TRUE(plane_->set_rif_limits({{0, 100}}).ok());
  ASSERT_TRUE(plane_->publish({{0, 1, 2ms}, {1, 1, 1ms}}).ok());
  const PickEvent record = pick_by(WEIR_RULE_LATENCY);
  EXPECT_EQ(record.head.backend, name(1));
  ASSERT_EQ(record.candidates.size(), 2U);
  EXPECT_EQ(loser(record).latency, 2ms);
  EXPECT_FALSE(loser(record).hot);
}

TEST_F(Explain, LessLoadOfTwo) {
  start(WEIR_POLICY_P2C, 2);
  const auto load = hold_at(0);
  const PickEvent record = pick_by(WEIR_RULE_LOAD);
  EXPECT_EQ(record.head.backend, name(1));
  EXPECT_EQ(record.policy, WEIR_POLICY_P2C);
  EXPECT_EQ(loser(record).load, 1);
}

TEST_F(Explain, LessLoadOfTwoHotOnes) {
  start(WEIR_POLICY_PREQUAL, 2);
  ASSERT_TRUE(plane_->set_rif_limits({{0, 0}}).ok());
  const auto one = hold_at(0);
  const auto two = hold_at(1);
  const auto three = hold_at(1);
  const PickEvent record = pick_by(WEIR_RULE_LOAD);
  EXPECT_EQ(record.head.backend, name(0));
  EXPECT_EQ(loser(record).load, 2);
  for (const Candidate& each : record.candidates) EXPECT_TRUE(each.hot);
}

TEST_F(Explain, EachInItsTurn) {
  start(WEIR_POLICY_ROUND_ROBIN, 2);
  std::string previous;
  for (int i = 0; i < 4; ++i) {
    const PickEvent record = pick();
    EXPECT_EQ(record.rule, WEIR_RULE_TURN);
    EXPECT_NE(record.head.backend, previous);
    previous = record.head.backend.value_or("");
  }
}

TEST_F(Explain, TheLeastLoaded) {
  start(WEIR_POLICY_LEAST_INFLIGHT, 3);
  const auto one = hold_at(0);
  const auto two = hold_at(1);
  for (int i = 0; i < 5; ++i) {
    const PickEvent record = pick();
    EXPECT_EQ(record.rule, WEIR_RULE_LEAST);
    EXPECT_EQ(record.head.backend, name(2));
  }
}

TEST_F(Explain, TheNextInLine) {
  start(WEIR_POLICY_WEIGHTED_RANDOM, 2);
  ASSERT_TRUE(plane_->publish({{0, 9, std::nullopt}, {1, 1, std::nullopt}}).ok());
  ASSERT_TRUE(plane_->open_breaker(0).ok());
  const PickEvent record = pick_by(
      WEIR_RULE_SCAN, [&](const PickEvent& each) { EXPECT_EQ(each.head.backend, name(1)); });
  EXPECT_EQ(record.candidates.size(), 1U);
}

TEST_F(Explain, Panic) {
  start(WEIR_POLICY_PREQUAL, 3);
  EXPECT_FALSE(pick().panic);
  ASSERT_TRUE(plane_->open_breaker(0).ok());
  EXPECT_FALSE(pick().panic) << "one of three";
  ASSERT_TRUE(plane_->open_breaker(1).ok());
  bool sent_to_an_open_one = false;
  for (int i = 0; i < kPatience && !sent_to_an_open_one && !HasFailure(); ++i) {
    const PickEvent record = pick();
    EXPECT_TRUE(record.panic);
    EXPECT_FALSE(record.backup);
    for (const Candidate& each : record.candidates) {
      EXPECT_EQ(each.breaker, each.backend == name(2) ? WEIR_BREAKER_CLOSED : WEIR_BREAKER_OPEN);
      sent_to_an_open_one = sent_to_an_open_one || (each.picked && each.backend != name(2));
    }
  }
  EXPECT_TRUE(sent_to_an_open_one);
}

TEST_F(Explain, TheBackupPool) {
  for (int i = 0; i < 2; ++i) listeners_.push_back(std::make_unique<TcpBackend>("127.0.0.1"));
  ServiceSpec spec = service_of(WEIR_POLICY_PREQUAL);
  spec.backup_backends = {spec.backends.back()};
  spec.backends.pop_back();
  start_with(spec, 2);
  EXPECT_FALSE(pick().backup);
  ASSERT_TRUE(plane_->open_breaker(0).ok());
  const PickEvent record = pick();
  EXPECT_TRUE(record.backup);
  EXPECT_FALSE(record.panic);
  EXPECT_EQ(record.head.backend, name(1));
}

TEST_F(Explain, AProbe) {
  breaker_.open = 30ms;
  breaker_.max_open = 30ms;
  start(WEIR_POLICY_PREQUAL, 2);
  ASSERT_TRUE(plane_->open_breaker(0).ok());
  PickEvent record;
  ASSERT_TRUE(eventually([&] { return (record = pick()).probe || HasFailure(); }));
  EXPECT_EQ(record.head.backend, name(0));
  EXPECT_FALSE(record.panic);
  for (const Candidate& each : record.candidates) {
    if (each.picked) {
      EXPECT_EQ(each.breaker, WEIR_BREAKER_HALF_OPEN);
    }
  }
}

TEST_F(Explain, OneInTen) {
  start(WEIR_POLICY_ROUND_ROBIN, 1);
  watch({.picks = Watch::Picks{std::nullopt, 10}});
  constexpr int kConnects = 1000;
  run_in<int>(sandbox_.cgroup(), [] {
    int error = 0;
    for (int i = 0; i < kConnects; ++i) close(connect_to(endpoint(kWatchedService), false, &error));
    return error;
  });
  const auto picks = only<PickEvent>(events()).size();
  // 100 in the mean, standard deviation 9.5.
  EXPECT_GT(picks, 50U);
  EXPECT_LT(picks, 150U);
}

TEST_F(Explain, OnlyTheServiceAskedFor) {
  listeners_.push_back(std::make_unique<TcpBackend>("127.0.0.1"));
  ServiceSpec other = service("10.96.0.11:80", {listeners_[0]->address()});
  other.name = "other";
  attach({service_of(WEIR_POLICY_PREQUAL), other}, {1, 1});
  watch({.picks = Watch::Picks{1, 1}});
  EXPECT_EQ(connect_once(kWatchedService).error, 0);
  EXPECT_EQ(connect_once("10.96.0.11:80").error, 0);
  const auto picks = only<PickEvent>(events());
  ASSERT_EQ(picks.size(), 1U);
  EXPECT_EQ(picks[0].head.service, "other");
}

}  // namespace
}  // namespace weir::kernel
