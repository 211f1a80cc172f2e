// SPDX-License-Identifier: Apache-2.0
//
// The rules of the SLA policies in a configuration.
#include <gtest/gtest.h>

#include <string>

#include "agent/config/config_loader.h"
#include "agent/config/validate.h"

namespace weir::config {
namespace {

const std::string kOneModel = "models: [{name: a, path: weir.yaml}]\n";
const std::string kTwoModels = "models: [{name: a, path: weir.yaml}, {name: b, path: weir.yaml}]\n";

std::string message_of(const std::string& text) {
  const auto config = parse_config(text, "deploy/config/weir.yaml");
  return config ? "accepted" : config.error().message;
}

void expect_problem(const std::string& text, const std::string& problem) {
  EXPECT_NE(message_of(text).find(problem), std::string::npos) << message_of(text);
}

TEST(SlaRules, EveryKnownRouteIsAccepted) {
  for (const std::string_view route : sla_routes()) {
    EXPECT_EQ(message_of("sla: [{route: " + std::string(route) + "}]"), "accepted");
  }
}

TEST(SlaRules, RoutesAreKnownAndUnique) {
  expect_problem("sla: [{route: /infre}]",
                 "weir.yaml:1:15: sla[0].route: \"/infre\" is not one of /infer, /v1/completions, "
                 "/v1/embeddings, /v1/rerank, "
                 "did you mean \"/infer\"?");
  expect_problem("sla: [{route: /infer}, {route: /infer}]",
                 "sla[1].route: \"/infer\" is used twice, first by sla[0]");
  expect_problem("sla: [{}, {}]",
                 "sla[1].route: is missing, as in sla[0]: one policy has all other routes");
}

TEST(SlaRules, TheBackupIsAnotherModel) {
  expect_problem(kTwoModels + "sla: [{fast_fail: {enabled: true, backup_model: c}}]",
                 "sla[0].fast_fail.backup_model: there is no model \"c\"");
  expect_problem(kOneModel + "sla: [{fast_fail: {enabled: true, backup_model: a}}]",
                 "sla[0].fast_fail.backup_model: \"a\" is the only model: it cannot stand in for "
                 "itself");
  EXPECT_EQ(message_of(kTwoModels + "sla: [{fast_fail: {enabled: true, backup_model: b}}]"),
            "accepted");
}

TEST(SlaRules, DegradeHasSomethingToAnswerWith) {
  for (const std::string nothing : {"cache_entries: 0", "cache_bytes: 0"}) {
    expect_problem("sla: [{degrade: {enabled: true, " + nothing + "}}]",
                   "sla[0].degrade: has nothing to answer with: no default_text, and no cache");
    EXPECT_EQ(message_of("sla: [{degrade: {" + nothing + "}}]"), "accepted");
    EXPECT_EQ(message_of("sla: [{degrade: {enabled: true, default_text: x, " + nothing + "}}]"),
              "accepted");
  }
  EXPECT_EQ(message_of("sla: [{degrade: {enabled: true}}]"), "accepted");
}

TEST(SlaRules, RangesAreChecked) {
  expect_problem("sla: [{retry: {max_attempts: 4}}]", "is out of range (1..3)");
  expect_problem("sla: [{adaptive_retry: {max_attempts: 3}}]", "is out of range (1..2)");
  expect_problem("sla: [{fast_fail: {min_health: 1.5}}]", "is out of range (0..1)");
}

}  // namespace
}  // namespace weir::config
