// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/admission.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>

#include "agent/admit/admission_sampler.h"
#include "tests/fixtures/admission_fixture.h"

namespace weir::admit {
namespace {

using schedule::Refusal;
using schedule::RefusalReason;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kMiB = 1 << 20;

class AdmissionTest : public AdmissionFixture {
 protected:
  void SetUp() override { start(); }

  [[nodiscard]] Refusal refused(const RequestHead& head) const {
    auto outcome = admission->reserve(head);
    if (const auto* refusal = std::get_if<Refusal>(&outcome)) return *refusal;
    ADD_FAILURE() << "admitted";
    return {};
  }
  [[nodiscard]] std::uint64_t refusals(Stage stage, RefusalReason reason) const {
    return admission->reading()
        .refusals[static_cast<std::size_t>(stage)][static_cast<std::size_t>(reason)];
  }
};

TEST_F(AdmissionTest, AReservationGoesBackOnce) {
  Reservation reservation = admitted({.body_bytes = 1000});
  EXPECT_TRUE(reservation.held());
  EXPECT_EQ(reservation.bytes(), 1000 * kBodyFactor + kAnswerBytes);
  EXPECT_EQ(admission->reading().reserved_bytes, reservation.bytes());
  EXPECT_EQ(admission->reading().requests, 1U);
  Reservation moved = std::move(reservation);
  EXPECT_FALSE(reservation.held());  // NOLINT(bugprone-use-after-move): that is the point
  reservation.release();
  EXPECT_EQ(admission->reading().requests, 1U);
  moved.release();
  moved.release();
  EXPECT_EQ(admission->reading().requests, 0U);
  EXPECT_EQ(admission->reading().reserved_bytes, 0U);
}

TEST_F(AdmissionTest, MovingOverAHeldOneGivesThatBack) {
  Reservation first = admitted({.body_bytes = 10});
  first = admitted({.body_bytes = 20});
  EXPECT_EQ(admission->reading().requests, 1U);
  EXPECT_EQ(admission->reading().reserved_bytes, 20 * kBodyFactor + kAnswerBytes);
}

TEST_F(AdmissionTest, RequestsInProgressAreBoundedInAllAndPerTenant) {
  options.max_requests = 3;
  options.tenants = {{"a", 1}};
  start();
  const Reservation one = admitted({.tenant = "a"});
  const Refusal own = refused({.tenant = "a"});
  EXPECT_EQ(own.reason, RefusalReason::kQueueFull);
  EXPECT_EQ(own.message, "tenant \"a\" has 1 requests in progress (max_requests)");
  EXPECT_EQ(own.retry_after, seconds(1));
  const Reservation two = admitted({});
  Reservation three = admitted({});
  const Refusal all = refused({});
  EXPECT_EQ(all.reason, RefusalReason::kQueueFull);
  EXPECT_EQ(all.message, "3 requests are in progress (max_requests)");
  three.release();
  EXPECT_TRUE(admitted({}).held());
  EXPECT_EQ(refusals(Stage::kHead, RefusalReason::kQueueFull), 2U);
}

TEST_F(AdmissionTest, MemoryIsBoundedAndWhatNeverFitsIsHopeless) {
  options.memory_bytes = 4 * kMiB;
  start();
  const Reservation large = admitted({.body_bytes = kMiB});
  const Refusal second = refused({.body_bytes = kMiB});
  EXPECT_EQ(second.reason, RefusalReason::kMemory);
  EXPECT_TRUE(second.retry_after.has_value());
  EXPECT_TRUE(admitted({.body_bytes = 1000}).held()) << "a small one is still served";
  const Refusal never = refused({.body_bytes = 2 * kMiB});
  EXPECT_EQ(never.reason, RefusalReason::kMemory);
  EXPECT_EQ(never.retry_after, std::nullopt);
}

TEST_F(AdmissionTest, SettlingCorrectsTheBytes) {
  options.models = {{"m", 1000}, {"n"}};
  start();
  Reservation reservation = admitted({.body_bytes = kMiB});
  EXPECT_FALSE(admission->settle(reservation, {.model = "m", .prompt_bytes = 50, .tokens = 10}));
  EXPECT_EQ(reservation.bytes(), 50 + kAnswerBytes + 10 * kTokenBytes);
  EXPECT_EQ(admission->reading().reserved_bytes, reservation.bytes());
  Reservation more = admitted({});
  EXPECT_FALSE(admission->settle(more, {.model = "m", .prompt_bytes = 0, .tokens = 2'000'000'000}));
  EXPECT_EQ(more.bytes(), kAnswerBytes + 1000 * kTokenBytes) << "no more than the context";
  Reservation other = admitted({});
  EXPECT_FALSE(
      admission->settle(other, {.model = "n", .prompt_bytes = 0, .tokens = 2'000'000'000}));
  EXPECT_EQ(other.bytes(), kAnswerBytes + kAssumedContextTokens * kTokenBytes);
}

TEST_F(AdmissionTest, SettlingRefusesWhatDoesNotFitAndHoldsWhatItHad) {
  options.memory_bytes = kMiB;
  options.models = {{"m", 100'000}};
  start();
  Reservation reservation = admitted({.body_bytes = 10});
  const std::uint64_t before = reservation.bytes();
  const auto refusal =
      admission->settle(reservation, {.model = "m", .prompt_bytes = 10, .tokens = 100'000});
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->reason, RefusalReason::kMemory);
  EXPECT_EQ(refusal->retry_after, std::nullopt);
  EXPECT_EQ(admission->reading().reserved_bytes, before);
  EXPECT_EQ(refusals(Stage::kBody, RefusalReason::kMemory), 1U);
  reservation.release();
  EXPECT_EQ(admission->reading().reserved_bytes, 0U);
}

TEST_F(AdmissionTest, APassedDeadlineIsHopeless) {
  const Refusal refusal = refused({.deadline = clock.now()});
  EXPECT_EQ(refusal.reason, RefusalReason::kDeadline);
  EXPECT_EQ(refusal.retry_after, std::nullopt);
  EXPECT_TRUE(admitted({.deadline = clock.now() + Duration(1)}).held());
  Reservation reservation = admitted({});
  const auto late = admission->settle(reservation, {.model = "m", .deadline = clock.now()});
  ASSERT_TRUE(late.has_value());
  EXPECT_EQ(late->reason, RefusalReason::kDeadline);
}

TEST_F(AdmissionTest, ADeadlineBeforeThePredictedTurnIsHopeless) {
  options.models = {{"m"}};
  options.predicted_wait = [](std::string_view model, std::int32_t level) {
    return model == "m" ? std::optional<Duration>(milliseconds(100 * (level + 1))) : std::nullopt;
  };
  start();
  const auto in = [&](int ms) { return clock.now() + milliseconds(ms); };
  // The only model need not be named.
  EXPECT_EQ(refused({.level = 0, .deadline = in(99)}).reason, RefusalReason::kDeadline);
  EXPECT_EQ(refused({.level = 0, .deadline = in(99)}).retry_after, std::nullopt);
  EXPECT_EQ(refused({.level = 0, .deadline = in(99)}).message,
            "a request would wait about 100 ms now, and the deadline comes in 99 ms");
  EXPECT_TRUE(admitted({.level = 0, .deadline = in(100)}).held());
  EXPECT_EQ(refused({.level = 7, .deadline = in(799)}).reason, RefusalReason::kDeadline);
  EXPECT_TRUE(admitted({.model = "other", .deadline = in(1)}).held());
  EXPECT_TRUE(admitted({}).held());
}

TEST_F(AdmissionTest, PressureRefusesWhileItLasts) {
  std::optional<double> percent = 20.0;
  options.read_pressure = [&] { return percent; };
  start();
  EXPECT_EQ(admission->reading().memory_pressure, std::nullopt);
  admission->sample();
  EXPECT_TRUE(admitted({}).held()) << "not above the limit";
  percent = 20.5;
  EXPECT_TRUE(admitted({}).held()) << "not looked at since";
  admission->sample();
  const Refusal refusal = refused({});
  EXPECT_EQ(refusal.reason, RefusalReason::kMemory);
  EXPECT_EQ(refusal.retry_after, seconds(10));
  EXPECT_EQ(admission->reading().memory_pressure, 20.5);
  percent = std::nullopt;
  admission->sample();
  EXPECT_TRUE(admitted({}).held()) << "what is not known refuses nobody";
  options.max_memory_pressure = 0;
  percent = 99;
  start();
  admission->sample();
  EXPECT_TRUE(admitted({}).held());
}

TEST_F(AdmissionTest, RateLimitsSayWhenToComeBackAndRecover) {
  RateRule rule;
  rule.tenant = "a";
  rule.requests_per_second = 0.4;
  options.rate_rules = {rule};
  options.models = {{"m"}};
  start();
  EXPECT_TRUE(admitted({.tenant = "a"}).held());
  const Refusal refusal = refused({.tenant = "a"});
  EXPECT_EQ(refusal.reason, RefusalReason::kRateLimited);
  EXPECT_EQ(refusal.retry_after, seconds(3)) << "2.5 s, rounded up";
  EXPECT_EQ(refusal.message,
            "0.4 requests per second are the limit (rate_limits[0]: tenant \"a\", model each, "
            "level each)");
  EXPECT_TRUE(admitted({.tenant = "b"}).held());
  clock.advance(seconds(3));
  EXPECT_TRUE(admitted({.tenant = "a"}).held());
  EXPECT_EQ(admission->reading().requests, 0U);
}

TEST_F(AdmissionTest, MoreTokensThanABucketHoldsIsHopeless) {
  RateRule rule;
  rule.tokens_per_second = 100;
  rule.tokens_burst = 100;
  options.rate_rules = {rule};
  options.models = {{"m", 512}};
  start();
  Reservation reservation = admitted({});
  auto refusal = admission->settle(reservation, {.model = "m", .tokens = 101});
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->reason, RefusalReason::kRateLimited);
  EXPECT_EQ(refusal->retry_after, std::nullopt);
  EXPECT_FALSE(admission->settle(reservation, {.model = "m", .tokens = 100}));
}

TEST_F(AdmissionTest, RetryAfterFollowsTheMeasuredPace) {
  options.max_requests = 4;
  start();
  admission->sample();
  for (int i = 0; i < 2; ++i) (void)admitted({});
  clock.advance(seconds(10));
  admission->sample();  // two in ten seconds
  std::vector<Reservation> all;
  for (int i = 0; i < 4; ++i) all.push_back(admitted({}));
  EXPECT_EQ(refused({}).retry_after, seconds(5));
}

TEST_F(AdmissionTest, RefusedRequestsDoNotCountAsPace) {
  RateRule rule;
  rule.requests_per_second = 0.001;
  options.rate_rules = {rule};
  options.models = {{"m"}};
  options.max_requests = 1;
  start();
  admission->sample();
  const Reservation holder = admitted({.tenant = "x"});
  for (int i = 0; i < 100; ++i) (void)refused({.tenant = "x"});
  clock.advance(seconds(1));
  admission->sample();
  EXPECT_EQ(refused({.tenant = "y"}).retry_after, ReleaseRate::kMost);
}

TEST_F(AdmissionTest, TenantsAreCountedByName) {
  options.tenants = {{"a", 1}};
  options.max_unconfigured_tenants = 1;
  start();
  const Reservation a = admitted({.tenant = "a"});
  (void)refused({.tenant = "a"});
  const Reservation b = admitted({.tenant = "b"});
  const Reservation c = admitted({.tenant = "c"});
  std::map<std::string, AdmissionReading::Tenant> tenants;
  for (const auto& tenant : admission->reading().tenants) tenants[tenant.name] = tenant;
  EXPECT_EQ(tenants["a"].requests, 1U);
  EXPECT_EQ(tenants["a"].admitted, 1U);
  EXPECT_EQ(tenants["a"].refused, 1U);
  EXPECT_EQ(tenants["b"].requests, 1U);
  EXPECT_EQ(tenants["[others]"].requests, 1U);
  EXPECT_EQ(tenants.size(), 3U);
}

TEST_F(AdmissionTest, OptionsAreCheckedWithFieldAndLimit) {
  const auto message = [&](auto change) {
    Admission::Options changed;
    change(changed);
    const auto made = Admission::create(changed, clock);
    return made.ok() ? "accepted" : made.error().message;
  };
  EXPECT_EQ(message([](auto& o) { o.max_requests = 0; }),
            "max_requests is 0; it must be in 1..1048576");
  EXPECT_EQ(message([](auto& o) { o.memory_bytes = 5; }),
            "memory_bytes is 5; it must be in 1048576..1099511627776");
  EXPECT_EQ(message([](auto& o) { o.max_memory_pressure = 101; }),
            "max_memory_pressure is 101.000000; it must be in 0..100");
}

// Random requests that come, are settled, and go, against sums kept by hand.
TEST_F(AdmissionTest, AgreesWithASimpleModelAndEndsAtZero) {
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](std::uint32_t below) {
      return std::uniform_int_distribution<std::uint32_t>(0, below - 1)(random);
    };
    options.max_requests = 20;
    options.memory_bytes = 2 * kMiB;
    options.tenants = {{"a", 5}, {"b", 8}};
    options.models = {{"m", 4096}, {"n"}};
    start();
    struct Held {
      Reservation reservation;
      std::string tenant;
      std::uint64_t bytes;
      bool settled;
    };
    std::vector<Held> held;
    std::map<std::string, std::uint64_t> limit = {{"a", 5}, {"b", 8}, {"c", 20}};
    const auto sum = [&] {
      std::uint64_t bytes = 0;
      for (const Held& one : held) bytes += one.bytes;
      return bytes;
    };
    for (int step = 0; step < 2000; ++step) {
      if (pick(2) == 0) {
        const std::string tenant(1, static_cast<char>('a' + pick(3)));
        const std::uint64_t body = pick(60'000);
        const std::uint64_t bytes = body * kBodyFactor + kAnswerBytes;
        const auto own = static_cast<std::uint64_t>(std::count_if(
            held.begin(), held.end(), [&](const Held& h) { return h.tenant == tenant; }));
        const bool fits =
            held.size() < 20 && own < limit[tenant] && sum() + bytes <= options.memory_bytes;
        auto outcome = admission->reserve({.tenant = tenant, .body_bytes = body});
        ASSERT_EQ(std::holds_alternative<Reservation>(outcome), fits) << "step " << step;
        if (fits) held.push_back({std::get<Reservation>(std::move(outcome)), tenant, bytes, false});
      } else if (!held.empty()) {
        const std::size_t at = pick(static_cast<std::uint32_t>(held.size()));
        if (pick(2) == 0 && !held[at].settled) {
          const std::uint64_t prompt = pick(100'000);
          const std::uint64_t tokens = pick(8192);
          const bool m = pick(2) == 0;
          const std::uint64_t bytes =
              prompt + kAnswerBytes +
              (m ? std::min<std::uint64_t>(tokens, 4096) : tokens) * kTokenBytes;
          const bool fits = sum() - held[at].bytes + bytes <= options.memory_bytes;
          const auto refusal =
              admission->settle(held[at].reservation,
                                {.model = m ? "m" : "n", .prompt_bytes = prompt, .tokens = tokens});
          ASSERT_EQ(!refusal.has_value(), fits) << "step " << step;
          held[at].settled = true;
          if (fits) {
            held[at].bytes = bytes;
          } else {
            held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
          }
        } else {
          if (pick(2) == 0) held[at].reservation.release();
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
        }
      }
      ASSERT_EQ(admission->reading().reserved_bytes, sum()) << "step " << step;
      ASSERT_EQ(admission->reading().requests, held.size()) << "step " << step;
    }
    held.clear();
    EXPECT_EQ(admission->reading().reserved_bytes, 0U);
    EXPECT_EQ(admission->reading().requests, 0U);
    for (const auto& tenant : admission->reading().tenants) EXPECT_EQ(tenant.requests, 0U);
  }
}

TEST_F(AdmissionTest, ThreadsLeaveEveryCountAtZero) {
  RateRule rule;
  rule.requests_per_second = 1e6;
  rule.tokens_per_second = 1e9;
  options.rate_rules = {rule};
  options.max_requests = 6;
  options.memory_bytes = kMiB;
  options.models = {{"m"}};
  start();
  std::atomic<std::uint64_t> refused_by_us{0};
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(t);
        std::vector<std::shared_ptr<Reservation>> held;
        for (int i = 0; i < 5000; ++i) {
          const std::string tenant = "t" + std::to_string(random() % 5);
          auto outcome = admission->reserve({.tenant = tenant, .body_bytes = random() % 100'000});
          if (auto* reservation = std::get_if<Reservation>(&outcome)) {
            held.push_back(std::make_shared<Reservation>(std::move(*reservation)));
            if (random() % 2 == 0 &&
                admission->settle(*held.back(), {.model = "m", .tokens = random() % 9000})) {
              ++refused_by_us;
            }
          } else {
            ++refused_by_us;
          }
          if (held.size() > random() % 4) held.erase(held.begin());
        }
      });
    }
  }
  const AdmissionReading reading = admission->reading();
  EXPECT_EQ(reading.requests, 0U);
  EXPECT_EQ(reading.reserved_bytes, 0U);
  std::uint64_t counted = 0;
  for (const auto& stage : reading.refusals) {
    for (const std::uint64_t count : stage) counted += count;
  }
  EXPECT_EQ(counted, refused_by_us);
  EXPECT_GT(counted, 0U);
  for (const auto& tenant : reading.tenants) EXPECT_EQ(tenant.requests, 0U) << tenant.name;
}

TEST_F(AdmissionTest, ASamplerLooksAtOnce) {
  std::atomic<int> looks{0};
  options.read_pressure = [&]() -> std::optional<double> {
    ++looks;
    looks.notify_all();
    return 0.0;
  };
  start();
  const AdmissionSampler sampler(*admission);
  looks.wait(0);
  EXPECT_GE(looks.load(), 1);
}

}  // namespace
}  // namespace weir::admit
