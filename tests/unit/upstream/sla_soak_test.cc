// SPDX-License-Identifier: Apache-2.0
//
// The promise as a whole, over hours of simulated time: backends fail 5 % of all attempts at random
// and one of them dies every 20 s; at least 99.95 % of the requests within policy succeed. Outside
// of policy are only those whose answer had begun.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "agent/upstream/policy_executor.h"
#include "tests/fixtures/fake_clock.h"
#include "tests/unit/upstream/fleet.h"
#include "tests/unit/upstream/simulated_timers.h"

namespace weir::upstream {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

struct Tally {
  std::uint64_t requests = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t broken_off = 0;  ///< failed after the first byte: beyond any policy
  std::uint64_t failed = 0;
  std::uint64_t ends = 0;

  [[nodiscard]] double share() const {
    return static_cast<double>(succeeded) / static_cast<double>(requests - broken_off);
  }
};

class TallyListener final : public model::Listener {
 public:
  explicit TallyListener(Tally& tally) : tally_(tally) {}
  void on_text(std::string_view) override { began_ = true; }
  void on_complete(const model::Completion&) override {
    end();
    ++tally_.succeeded;
  }
  void on_error(const Error&) override {
    end();
    ++(began_ ? tally_.broken_off : tally_.failed);
  }

 private:
  void end() {
    ++tally_.ends;
    EXPECT_FALSE(ended_) << "a second end";
    ended_ = true;
  }
  Tally& tally_;
  bool began_ = false;
  bool ended_ = false;
};

struct Scenario {
  SlaOptions policy;
  Fleet::Options fleet;
  std::map<std::string, std::size_t> backends{{"main", 4}};
  bool hangs = false;       ///< the dead ones do not answer, instead of refusing
  seconds dead_for{10};     ///< of every 20 s
  double per_second = 100;  ///< Poisson
  minutes length{30};
};

SlaOptions retrying() {
  SlaOptions options;
  options.retry = {3, milliseconds(25)};
  return options;
}

struct Outcome {
  Tally tally;
  SlaRouteReading policy;
  std::uint64_t attempts = 0;
};

Outcome simulate(const Scenario& scenario, unsigned seed) {
  FakeClock clock;
  SimulatedTimers timers(clock);
  Fleet fleet(scenario.fleet, scenario.backends, clock, timers, seed);
  Outcome outcome;
  std::mt19937 random(seed + 1000);
  const TimePoint end = clock.now() + scenario.length;
  {
    PolicyExecutor executor({scenario.policy}, fleet, timers, clock, seed);
    std::function<void()> death = [&] {
      const std::size_t victim = random() % scenario.backends.at("main");
      fleet.kill("main", victim, scenario.hangs);
      timers.arm(clock.now() + scenario.dead_for, [&, victim] { fleet.revive("main", victim); });
      if (clock.now() + seconds(20) < end) timers.arm(clock.now() + seconds(20), death);
    };
    timers.arm(clock.now() + seconds(10), death);
    std::exponential_distribution<double> gap(scenario.per_second);
    while (clock.now() < end) {
      timers.pass(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(gap(random))));
      auto request = std::make_shared<model::GenerationRequest>();
      request->listener = std::make_shared<TallyListener>(outcome.tally);
      ++outcome.tally.requests;
      if (executor.submit("main", request)) {
        ++outcome.tally.failed;
        ++outcome.tally.ends;
      }
    }
    timers.pass(minutes(1));
    EXPECT_EQ(fleet.under_way(), 0U);
    outcome.policy = executor.reading().routes.at(0);
  }
  outcome.attempts = fleet.attempts();
  EXPECT_EQ(outcome.tally.ends, outcome.tally.requests) << "every request hears one end";
  return outcome;
}

void expect_kept(const char* name, const Scenario& scenario) {
  double worst = 1;
  std::uint64_t requests_in_all = 0;
  std::uint64_t broken_off = 0;
  for (const unsigned seed : {1U, 2U}) {
    const Outcome outcome = simulate(scenario, seed);
    const auto requests = static_cast<double>(outcome.tally.requests);
    const double seconds_passed = std::chrono::duration<double>(scenario.length).count() + 70;
    const auto extra =
        static_cast<double>(outcome.policy.retries + outcome.policy.adaptive_attempts);
    EXPECT_LE(extra, 0.2 * requests + seconds_passed) << "the budget";
    EXPECT_LE(static_cast<double>(outcome.attempts), requests + extra);
    EXPECT_GE(outcome.tally.share(), 0.9995) << "seed " << seed;
    worst = std::min(worst, outcome.tally.share());
    broken_off += outcome.tally.broken_off;
    requests_in_all += outcome.tally.requests;
  }
  std::printf("%s: %.4f %% of %llu requests in the worse of two runs; %llu broken off beside\n",
              name, 100 * worst, static_cast<unsigned long long>(requests_in_all),
              static_cast<unsigned long long>(broken_off));
}

TEST(SlaSoak, WithoutAPolicyTheFailuresReachTheClient) {
  Scenario scenario;
  scenario.policy.route = "/infer";  // of none of these requests
  const Outcome outcome = simulate(scenario, 1);
  EXPECT_LT(outcome.tally.share(), 0.955);
}

TEST(SlaSoak, RetriesKeepThePromiseWhenDeadBackendsRefuse) {
  Scenario scenario;
  scenario.policy = retrying();
  expect_kept("refusing", scenario);
}

TEST(SlaSoak, AdaptiveRetriesKeepItWhenDeadBackendsHang) {
  Scenario scenario;
  scenario.policy = retrying();
  scenario.policy.adaptive_retry = {2, milliseconds(500)};
  scenario.hangs = true;
  expect_kept("hanging", scenario);
}

TEST(SlaSoak, KeptForStreamsUntilTheirFirstByte) {
  Scenario scenario;
  scenario.policy = retrying();
  scenario.fleet.first_byte_at = 0.2;
  expect_kept("streams", scenario);
}

TEST(SlaSoak, TheBackupKeepsItWhenTheOnlyBackendDies) {
  Scenario scenario;
  scenario.policy = retrying();
  scenario.policy.fast_fail = {0.5, "backup"};
  scenario.backends = {{"main", 1}, {"backup", 4}};
  expect_kept("backup", scenario);
}

TEST(SlaSoak, ManyRequestsAtOnce) {
  Scenario scenario;
  scenario.policy = retrying();
  scenario.per_second = 2000;
  scenario.length = minutes(2);
  expect_kept("many", scenario);
}

TEST(SlaSoak, FewerRequests) {
  Scenario scenario;
  scenario.policy = retrying();
  scenario.per_second = 25;
  scenario.length = minutes(120);
  expect_kept("fewer", scenario);
}

// All backends dead: what clients are told does not depend on retries, and these stay in budget.
TEST(SlaSoak, AnOutageIsNotMultiplied) {
  Scenario scenario;
  scenario.policy = retrying();
  scenario.fleet.failing = 1;
  scenario.length = minutes(10);
  const Outcome outcome = simulate(scenario, 1);
  EXPECT_EQ(outcome.tally.succeeded, 0U);
  EXPECT_LT(static_cast<double>(outcome.attempts),
            1.2 * static_cast<double>(outcome.tally.requests) + 700);
}

}  // namespace
}  // namespace weir::upstream
