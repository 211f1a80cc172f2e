// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/explain.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <ctime>
#include <set>

namespace weir::ctl {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using kernel::PickEvent;

/// 2026-01-02 03:04:05.678901 UTC.
const WallTime kWhen(std::chrono::microseconds(1'767'323'045'678'901));

/// Of two, the second: the first one is hot.
PickEvent example() {
  PickEvent pick;
  pick.head = {TimePoint(42ns), "chat", "127.0.0.1:9002", 77};
  pick.candidates = {
      {"127.0.0.1:9001", 3.25, 80'200us, 1.5, WEIR_BREAKER_CLOSED, true, false},
      {"127.0.0.1:9002", 1, std::nullopt, 1, WEIR_BREAKER_CLOSED, false, true},
  };
  pick.rule = WEIR_RULE_COLD;
  pick.rif_limit = 2;
  return pick;
}

class ExplainTest : public testing::Test {
 protected:
  ExplainTest() {
    setenv("TZ", "UTC", 1);
    tzset();
  }
};

TEST_F(ExplainTest, TextShowsBothCandidatesAndTheReason) {
  EXPECT_EQ(ExplainPrinter(false).print(example(), kWhen).value(),
            "03:04:05.678  chat -> 127.0.0.1:9002  (prequal, hot above load 2)\n"
            "     127.0.0.1:9001  load 3.25  hot   latency 80.2ms  weight 1.5  breaker closed\n"
            "  >  127.0.0.1:9002  load 1     cold  latency -       weight 1    breaker closed\n"
            "    why: it is cold, the other one is hot\n");
}

TEST_F(ExplainTest, TextOfNobody) {
  PickEvent pick = example();
  pick.head.backend = std::nullopt;
  pick.candidates.clear();
  pick.rule = WEIR_RULE_NONE;
  EXPECT_EQ(ExplainPrinter(false).print(pick, kWhen).value(),
            "03:04:05.678  chat -> nobody  (prequal, hot above load 2)\n"
            "    why: no backend can be taken\n");
}

TEST_F(ExplainTest, JsonHasTheDocumentedShape) {
  const std::string line = ExplainPrinter(true).print(example(), kWhen).value();
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(json::parse(line), json::parse(R"({"event": "pick",
    "time": "2026-01-02T03:04:05.678901Z", "monotonic_ns": 42, "service": "chat",
    "backend": "127.0.0.1:9002", "cookie": 77, "policy": "prequal", "rule": "cold_over_hot",
    "rif_limit": 2, "panic": false, "backup": false, "probe": false, "candidates": [
      {"backend": "127.0.0.1:9001", "picked": false, "load": 3.25, "hot": true,
       "latency_us": 80200, "weight": 1.5, "breaker": "closed"},
      {"backend": "127.0.0.1:9002", "picked": true, "load": 1, "hot": false,
       "latency_us": null, "weight": 1, "breaker": "closed"}]})"))
      << line;
  const json::value document = json::parse(line);
  for (const auto& field : document.as_object()) {
    EXPECT_NE(explain_help().find(field.key()), std::string_view::npos) << field.key();
  }
}

TEST_F(ExplainTest, EveryRuleHasWordsOfItsOwn) {
  std::set<std::string> reasons;
  for (int rule = 0; rule < WEIR_RULE_COUNT; ++rule) {
    PickEvent pick = example();
    pick.rule = static_cast<weir_rule>(rule);
    reasons.insert(reason_text(pick));
  }
  EXPECT_EQ(reasons.size(), static_cast<std::size_t>(WEIR_RULE_COUNT));
  EXPECT_FALSE(reasons.contains("for a reason that this program does not know"));
}

TEST_F(ExplainTest, AComparisonByLoadSaysHowItCameToThat) {
  PickEvent pick = example();
  pick.rule = WEIR_RULE_LOAD;
  pick.candidates[0].hot = false;
  EXPECT_EQ(reason_text(pick),
            "both are cold, but not both are measured yet; less load for its weight");
  pick.candidates[1].latency = 80'200us;
  EXPECT_EQ(reason_text(pick), "both are cold and equally fast; less load for its weight");
  pick.candidates[0].hot = pick.candidates[1].hot = true;
  EXPECT_EQ(reason_text(pick), "both are hot; less load for its weight");
  pick.policy = WEIR_POLICY_P2C;
  EXPECT_EQ(reason_text(pick), "less load for its weight");
  pick.candidates[0].load = 2;  // (2 + 1) / 1.5 = (1 + 1) / 1
  EXPECT_EQ(reason_text(pick), "same load for their weight: the first one drawn");
}

TEST_F(ExplainTest, OnlyOneCandidateIsAMatterOfThePolicy) {
  PickEvent pick = example();
  pick.rule = WEIR_RULE_ONLY;
  EXPECT_EQ(reason_text(pick), "only one of two draws can take connections");
  pick.policy = WEIR_POLICY_WEIGHTED_RANDOM;
  EXPECT_EQ(reason_text(pick), "drawn by weight alone");
}

TEST_F(ExplainTest, WhatIsUnusualIsSaid) {
  PickEvent pick = example();
  pick.panic = true;
  EXPECT_NE(reason_text(pick).find("PANIC"), std::string::npos);
  pick.panic = false;
  pick.backup = true;
  EXPECT_NE(reason_text(pick).find("backup pool"), std::string::npos);
  pick.backup = false;
  pick.probe = true;
  EXPECT_NE(reason_text(pick).find("probe"), std::string::npos);
}

TEST_F(ExplainTest, OtherEventsAreNotForIt) {
  EXPECT_FALSE(ExplainPrinter(false).print(kernel::CloseEvent{}, kWhen));
}

}  // namespace
}  // namespace weir::ctl
