// SPDX-License-Identifier: Apache-2.0
//
// What requests in progress will need of the models' KV caches, and when that is too much.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>

#include "agent/admit/admission.h"
#include "tests/fixtures/admission_fixture.h"

namespace weir::admit {
namespace {

using schedule::Refusal;
using schedule::RefusalReason;
using std::chrono::seconds;

class KvReservation : public AdmissionFixture {
 protected:
  [[nodiscard]] AdmissionReading::KvCache cache(std::string_view model) const {
    for (const auto& one : admission->reading().kv_caches) {
      if (one.model == model) return one;
    }
    return {};
  }
};

TEST_F(KvReservation, TheHeadCountsByItsLengthAndTheBodyExactly) {
  options.models = {{"m", 1000, 10, 25'000}, {"other", 1000, 7, 7000}};
  start();
  Reservation reservation = admitted({.model = "m", .body_bytes = 400});
  EXPECT_EQ(reservation.kv_bytes(), 1000U) << "a token for every four bytes";
  EXPECT_EQ(cache("m").reserved_bytes, 1000U);
  EXPECT_EQ(cache("m").limit_bytes, 25'000U);
  EXPECT_FALSE(admission->settle(reservation, {.model = "m", .tokens = 30}));
  EXPECT_EQ(cache("m").reserved_bytes, 300U);
  EXPECT_EQ(cache("other").reserved_bytes, 0U);
  reservation.release();
  EXPECT_EQ(cache("m").reserved_bytes, 0U);
}

TEST_F(KvReservation, NoRequestNeedsMoreThanItsContext) {
  options.models = {{"m", 1000, 10, 10'000}};
  start();
  Reservation reservation = admitted({.body_bytes = 1U << 20U});
  EXPECT_EQ(reservation.kv_bytes(), 10'000U) << "the only model need not be named";
  EXPECT_FALSE(admission->settle(reservation, {.model = "m", .tokens = 2'000'000'000}));
  EXPECT_EQ(reservation.kv_bytes(), 10'000U);
}

TEST_F(KvReservation, WhatIsTooMuchIsRefusedAsMemoryAndComesBackWithThePace) {
  options.models = {{"m", 1000, 10, 25'000}};
  start();
  admission->sample();
  std::vector<Reservation> running;
  for (int i = 0; i < 2; ++i) {
    running.push_back(admitted({}));
    ASSERT_FALSE(admission->settle(running.back(), {.model = "m", .tokens = 1000}));
  }
  Reservation third = admitted({.model = "m"});
  auto refusal = admission->settle(third, {.model = "m", .tokens = 501});
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->reason, RefusalReason::kMemory);
  EXPECT_EQ(refusal->message,
            "the request may need 5010 bytes of the KV cache of model \"m\"; requests in progress "
            "need 20000 of it and may need 25000 (queue.max_kv_ratio)");
  EXPECT_EQ(refusal->retry_after, seconds(1)) << "no pace is known yet";
  EXPECT_EQ(cache("m").reserved_bytes, 20'000U) << "a refused one holds what it had";
  EXPECT_FALSE(admission->settle(third, {.model = "m", .tokens = 500}));
  third.release();
  running.pop_back();
  clock.advance(seconds(10));
  admission->sample();  // 15,000 bytes in ten seconds
  const Reservation again = admitted({.body_bytes = 4000});
  auto outcome = admission->reserve({.body_bytes = 2400});
  const auto* head = std::get_if<Refusal>(&outcome);
  ASSERT_NE(head, nullptr);
  EXPECT_EQ(head->reason, RefusalReason::kMemory);
  EXPECT_EQ(head->retry_after, seconds(4));
  const AdmissionReading reading = admission->reading();
  const auto memory = static_cast<std::size_t>(RefusalReason::kMemory);
  EXPECT_EQ(reading.refusals[static_cast<std::size_t>(Stage::kHead)][memory], 1U);
  EXPECT_EQ(reading.refusals[static_cast<std::size_t>(Stage::kBody)][memory], 1U);
  EXPECT_EQ(cache("m").refused, 2U);
  EXPECT_EQ(reading.requests, 2U) << "one that runs, and the last one";
}

TEST_F(KvReservation, OneThatARateLimitRefusesGivesBackAndSaysNothingOfThePace) {
  RateRule rule;
  rule.requests_per_second = 0.001;
  options.rate_rules = {rule};
  options.models = {{"m", 1000, 10, 10'000}};
  start();
  admission->sample();
  const Reservation first = admitted({.body_bytes = 400});
  for (int i = 0; i < 100; ++i) (void)admission->reserve({.body_bytes = 400});
  EXPECT_EQ(cache("m").reserved_bytes, 1000U);
  clock.advance(seconds(1));
  admission->sample();
  auto outcome = admission->reserve({.tenant = "b", .body_bytes = 4000});
  EXPECT_EQ(std::get<Refusal>(outcome).retry_after, ReleaseRate::kMost);
}

TEST_F(KvReservation, ABodyThatNamesAnotherModelMovesIt) {
  options.models = {{"m", 1000, 10, 10'000}, {"n", 100, 1, 100}, {"none"}};
  start();
  Reservation reservation = admitted({.model = "m", .body_bytes = 400});
  EXPECT_FALSE(admission->settle(reservation, {.model = "n", .tokens = 50}));
  EXPECT_EQ(cache("m").reserved_bytes, 0U);
  EXPECT_EQ(cache("n").reserved_bytes, 50U);
  Reservation moved = std::move(reservation);
  EXPECT_FALSE(admission->settle(moved, {.model = "unheard-of", .tokens = 50}));
  EXPECT_EQ(cache("n").reserved_bytes, 0U);
  EXPECT_FALSE(admission->settle(moved, {.model = "none", .tokens = 50}));
  EXPECT_EQ(moved.kv_bytes(), 0U) << "a model without a cache bounds nothing";
  EXPECT_EQ(admission->reading().kv_caches.size(), 2U);
}

TEST_F(KvReservation, ModelsAreKnownBetterWithTime) {
  std::vector<ModelCosts> known;
  options.models = {{"m", 512}};
  options.read_models = [&] { return known; };
  start();
  Reservation early = admitted({.model = "m", .body_bytes = 400});
  EXPECT_EQ(early.kv_bytes(), 0U);
  known = {{"m", 512, 8, 4096}, {"of-folder", 100, 1, 100}};
  admission->sample();
  EXPECT_FALSE(admission->settle(early, {.model = "m", .tokens = 100}));
  EXPECT_EQ(early.kv_bytes(), 800U);
  Reservation other = admitted({.model = "of-folder", .body_bytes = 40});
  EXPECT_EQ(other.kv_bytes(), 10U);
  // Unloaded, and its file gone: what was known stays.
  known = {{"m"}, {"of-folder"}};
  admission->sample();
  EXPECT_EQ(cache("m").limit_bytes, 4096U);
  EXPECT_TRUE(admission->settle(other, {.model = "m", .tokens = 512}).has_value());
  // A smaller cache than is needed by now lets nobody in, and nothing goes wrong.
  known = {{"m", 512, 8, 400}};
  admission->sample();
  EXPECT_TRUE(std::holds_alternative<Refusal>(admission->reserve({.model = "m", .body_bytes = 4})));
  early.release();
  EXPECT_EQ(cache("m").reserved_bytes, 0U);
  EXPECT_TRUE(admitted({.model = "m", .body_bytes = 4}).held());
}

// Random requests that come, are settled, and go, against sums kept by hand.
TEST_F(KvReservation, AgreesWithASimpleModelAndEndsAtZero) {
  struct Model {
    std::uint64_t context, each, limit;
  };
  const std::map<std::string, Model> models = {
      {"m", {256, 100, 60'000}}, {"n", {4096, 3, 12'288}}, {"free", {100, 0, 0}}};
  for (const auto& [name, model] : models) {
    options.models.push_back(
        {name, static_cast<std::uint32_t>(model.context), model.each, model.limit});
  }
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](std::uint32_t below) {
      return std::uniform_int_distribution<std::uint32_t>(0, below - 1)(random);
    };
    start();
    struct Held {
      Reservation reservation;
      std::string model;
      std::uint64_t bytes;
    };
    std::vector<Held> held;
    const auto sum = [&](const std::string& model) {
      std::uint64_t bytes = 0;
      for (const Held& one : held) bytes += one.model == model ? one.bytes : 0;
      return bytes;
    };
    const auto any_model = [&] { return std::next(models.begin(), pick(3)); };
    std::uint64_t refused = 0;
    for (int step = 0; step < 2000; ++step) {
      const auto& [name, model] = *any_model();
      if (pick(2) == 0) {
        const bool named = pick(4) != 0;
        const std::uint64_t body = pick(6000);
        const std::uint64_t bytes = named ? std::min(body / 4, model.context) * model.each : 0;
        const bool fits = sum(name) + bytes <= model.limit;
        auto outcome = admission->reserve({.model = named ? name : "", .body_bytes = body});
        ASSERT_EQ(std::holds_alternative<Reservation>(outcome), fits) << "step " << step;
        if (fits) {
          held.push_back({std::get<Reservation>(std::move(outcome)), named ? name : "", bytes});
        }
        refused += fits ? 0 : 1;
      } else if (!held.empty()) {
        const std::size_t at = pick(static_cast<std::uint32_t>(held.size()));
        Held& one = held[at];
        if (pick(2) == 0) {
          const std::uint64_t tokens = pick(5000);
          const std::uint64_t bytes = std::min(tokens, model.context) * model.each;
          const std::uint64_t others = sum(name) - (one.model == name ? one.bytes : 0);
          const bool fits = others + bytes <= model.limit;
          const auto refusal =
              admission->settle(one.reservation, {.model = name, .tokens = tokens});
          ASSERT_EQ(!refusal.has_value(), fits) << "step " << step;
          refused += fits ? 0 : 1;
          if (fits) {
            one.bytes = bytes;
          } else if (one.model != name) {
            one.bytes = 0;  // of the new model it got nothing
          }
          one.model = name;
        } else {
          if (pick(2) == 0) one.reservation.release();
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
        }
      }
      for (const auto& [each, unused] : models) {
        ASSERT_EQ(cache(each).reserved_bytes, sum(each)) << each << " step " << step;
      }
    }
    held.clear();
    EXPECT_EQ(cache("m").reserved_bytes, 0U);
    EXPECT_EQ(cache("n").reserved_bytes, 0U);
    EXPECT_EQ(cache("m").refused + cache("n").refused, refused);
    EXPECT_GT(refused, 0U);
  }
}

TEST_F(KvReservation, ThreadsLeaveEveryCountAtZero) {
  options.models = {{"m", 1000, 10, 15'000}, {"n", 1000, 10, 12'000}};
  std::atomic<int> looks{0};
  options.read_models = [&]() -> std::vector<ModelCosts> {
    const auto i = static_cast<std::uint64_t>(looks.fetch_add(1));
    return {{"m", 1000, 10 + i % 3, 12'000 + i % 7 * 1000}, {"late" + std::to_string(i % 20)}};
  };
  start();
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(t);
        std::vector<Reservation> held;
        for (int i = 0; i < 5000; ++i) {
          const std::string_view model = random() % 2 == 0 ? "m" : "n";
          auto outcome = admission->reserve({.model = model, .body_bytes = random() % 3000});
          if (auto* reservation = std::get_if<Reservation>(&outcome)) {
            held.push_back(std::move(*reservation));
            (void)admission->settle(held.back(), {.model = model, .tokens = random() % 900});
          }
          if (held.size() > random() % 4) held.erase(held.begin());
        }
      });
    }
    for (int i = 0; i < 200; ++i) admission->sample();
  }
  for (const auto& one : admission->reading().kv_caches) {
    EXPECT_EQ(one.reserved_bytes, 0U) << one.model;
    EXPECT_GT(one.refused, 0U) << one.model;
  }
}

}  // namespace
}  // namespace weir::admit
