// SPDX-License-Identifier: Apache-2.0
//
// Fast-fail and the backup model: whom an attempt asks.
#include "tests/unit/upstream/policy_fixture.h"

namespace weir::upstream {
namespace {

using model::RefusalReason;

class HealthTest : public PolicyTest {
 protected:
  void SetUp() override { options.fast_fail = {0.5, ""}; }

  /// Requests to "main" until it is known to be ill. With retry off, each is one attempt.
  void fall_ill() {
    for (int i = 0; i < 5; ++i) {
      ask();
      models.submitted.back().fail(Code::kIo);
    }
  }
};

TEST_F(HealthTest, BelowTheThresholdItRefusesWithoutAsking) {
  fall_ill();
  EXPECT_EQ(models.submitted.size(), 5U);
  ask();  // the probe that is due at once
  EXPECT_EQ(models.submitted.size(), 6U);
  const Asked asked = ask();
  ASSERT_TRUE(asked.refused);
  EXPECT_EQ(asked.refused->reason, RefusalReason::kBreakerOpen);
  EXPECT_EQ(asked.refused->retry_after, seconds(5));
  EXPECT_EQ(models.submitted.size(), 6U);
  EXPECT_EQ(reading().fast_fails, 1U);
  EXPECT_EQ(reading().probes, 1U);
}

TEST_F(HealthTest, ProbesGoThroughAndBringItBack) {
  fall_ill();
  std::size_t refused = 0;
  int tenths = 0;
  for (; refused == 0 || executor().reading().health.at(0).second < 0.5; ++tenths) {
    ASSERT_LT(tenths, 100);
    const std::size_t before = models.submitted.size();
    const Asked asked = ask();
    if (asked.refused) ++refused;
    if (models.submitted.size() > before) models.submitted.back().complete("well");
    clock.advance(milliseconds(100));
  }
  EXPECT_GT(refused, 0U);
  EXPECT_FALSE(ask().refused);
  EXPECT_FALSE(ask().refused);  // not by probes: several at one time
  EXPECT_GE(reading().probes, 3U);
}

TEST_F(HealthTest, AFullQueueIsNoIllness) {
  models.refuse = [](std::string_view) { return refusal(RefusalReason::kQueueFull); };
  for (int i = 0; i < 100; ++i) EXPECT_EQ(ask().refused->reason, RefusalReason::kQueueFull);
  EXPECT_EQ(models.refused.size(), 100U);
}

TEST_F(HealthTest, WrongInputAndCancellationAreNoIllness) {
  for (int i = 0; i < 20; ++i) {
    ask();
    models.submitted.back().fail(i % 2 == 0 ? Code::kInvalidArgument : Code::kCancelled);
  }
  EXPECT_EQ(models.submitted.size(), 20U);
  EXPECT_TRUE(executor().reading().health.empty());
}

TEST_F(HealthTest, AModelThatCannotBeLoadedIsIll) {
  models.refuse = [](std::string_view) { return refusal(RefusalReason::kLoading, seconds(5)); };
  for (int i = 0; i < 5; ++i) EXPECT_EQ(ask().refused->reason, RefusalReason::kLoading);
  EXPECT_EQ(executor().reading().health.at(0).second, 0.0);
}

TEST_F(HealthTest, AnAnswerThatBreaksOffIsAFailure) {
  for (int i = 0; i < 5; ++i) {
    ask();
    models.submitted.back().listener().on_text("On");
    models.submitted.back().fail(Code::kInternal);
  }
  EXPECT_EQ(executor().reading().health.at(0).second, 0.0);
}

class BackupTest : public HealthTest {
 protected:
  void SetUp() override { options.fast_fail = {0.5, "backup"}; }
};

TEST_F(BackupTest, IsAskedInstead) {
  fall_ill();
  ask();  // the probe
  const Asked asked = ask();
  EXPECT_FALSE(asked.refused);
  EXPECT_EQ(models.submitted.back().model, "backup");
  models.submitted.back().complete("from the backup");
  EXPECT_EQ(asked.heard->text, "from the backup");
  EXPECT_EQ(reading().backup_attempts, 1U);
  EXPECT_EQ(reading().fast_fails, 0U);
}

TEST_F(BackupTest, IsNotAskedWhileTheModelIsWell) {
  for (int i = 0; i < 20; ++i) {
    ask();
    EXPECT_EQ(models.submitted.back().model, "main");
    models.submitted.back().complete("x");
  }
}

TEST_F(BackupTest, WhenItIsIllTooTheRequestIsRefused) {
  fall_ill();
  ask();  // the probe
  for (int i = 0; i < 5; ++i) {
    ask();
    ASSERT_EQ(models.submitted.back().model, "backup");
    models.submitted.back().fail(Code::kIo);
  }
  ask();  // its probe
  EXPECT_EQ(models.submitted.back().model, "backup");
  const Asked asked = ask();
  ASSERT_TRUE(asked.refused);
  EXPECT_EQ(asked.refused->reason, RefusalReason::kBreakerOpen);
  EXPECT_EQ(reading().probes, 2U);
}

TEST_F(BackupTest, DoesNotStandInForItself) {
  options.fast_fail = {0.5, "main"};
  fall_ill();
  ask();  // the probe
  EXPECT_TRUE(ask().refused);
}

TEST_F(BackupTest, TheLastRetryGoesThere) {
  options.retry = {3, milliseconds(25)};
  const Asked asked = ask();
  models.submitted[0].fail(Code::kUnavailable);
  timers.pass(milliseconds(25));
  ASSERT_EQ(models.submitted.size(), 2U);
  EXPECT_EQ(models.submitted[1].model, "main");
  models.submitted[1].fail(Code::kUnavailable);
  timers.pass(Duration::zero());  // whoever is asked now has not failed yet
  ASSERT_EQ(models.submitted.size(), 3U);
  EXPECT_EQ(models.submitted[2].model, "backup");
  models.submitted[2].complete("saved");
  EXPECT_EQ(asked.heard->text, "saved");
  EXPECT_EQ(reading().retries, 2U);
  EXPECT_EQ(reading().backup_attempts, 1U);
}

TEST_F(BackupTest, ARetryGoesThereAtOnceWhenTheModelNamesALaterTime) {
  options.retry = {3, milliseconds(25)};
  models.refuse = [](std::string_view model) -> std::optional<model::Refusal> {
    if (model != "main") return std::nullopt;
    return refusal(RefusalReason::kLoading, seconds(5));
  };
  const Asked asked = ask();
  EXPECT_FALSE(asked.refused);
  timers.pass(Duration::zero());
  EXPECT_EQ(models.submitted.at(0).model, "backup");
}

TEST_F(BackupTest, RetriesGoThereOnceTheModelFailedThreeTimesInARow) {
  options.retry = {3, milliseconds(25)};
  for (int i = 0; i < 100; ++i) {
    ask();
    models.submitted.back().complete("x");
  }
  std::vector<Asked> asked;
  models.submitted.clear();
  for (int i = 0; i < 4; ++i) asked.push_back(ask());  // at the same time
  for (std::size_t i = 0; i < 4; ++i) models.submitted[i].fail(Code::kUnavailable);
  timers.pass(Duration::zero());
  ASSERT_EQ(models.submitted.size(), 6U);  // of the third and fourth
  EXPECT_EQ(models.submitted[4].model, "backup");
  EXPECT_EQ(models.submitted[5].model, "backup");
  timers.pass(milliseconds(25));
  ASSERT_EQ(models.submitted.size(), 8U);
  EXPECT_EQ(models.submitted[6].model, "main");
  // First attempts go by the share alone.
  ask();
  EXPECT_EQ(models.submitted.back().model, "main");
}

TEST_F(BackupTest, AnIllBackupIsNotTheLastResort) {
  options.retry = {2, milliseconds(25)};
  options.budget_percent = 100;
  std::size_t failed = 0;
  for (int i = 0; i < 60; ++i) {  // whoever is asked fails, probes included
    ask();
    for (; failed < models.submitted.size(); ++failed) models.submitted[failed].fail(Code::kIo);
    timers.pass(milliseconds(250));
    for (; failed < models.submitted.size(); ++failed) models.submitted[failed].fail(Code::kIo);
  }
  const auto share = [&](std::size_t i) { return executor().reading().health.at(i).second; };
  ASSERT_EQ(executor().reading().health.at(1).first, "main");
  for (int i = 0; i < 60 && share(1) < 0.5; ++i) {  // the model asked for gets well again
    ask();
    ASSERT_EQ(models.submitted.back().model, "main");
    models.submitted.back().complete("x");
    timers.pass(milliseconds(250));
  }
  ASSERT_EQ(share(0), 0.0);  // the backup does not
  ask();
  models.submitted.back().fail(Code::kIo);
  timers.pass(milliseconds(25));
  EXPECT_EQ(models.submitted.back().model, "main");
}

}  // namespace
}  // namespace weir::upstream
