// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/failure.h"

#include <gtest/gtest.h>

#include <chrono>

namespace weir::upstream {
namespace {

using schedule::Refusal;
using schedule::RefusalReason;

Failure error(Code code) { return make_error(code, ""); }
Failure refusal(RefusalReason reason) { return Refusal{reason, "", std::nullopt}; }

void expect(const Failure& failure, bool retry, bool against_model, bool cached, bool text) {
  EXPECT_EQ(worth_retrying(failure), retry);
  EXPECT_EQ(speaks_against_model(failure), against_model);
  EXPECT_EQ(may_answer_from_cache(failure), cached);
  EXPECT_EQ(may_answer_default(failure), text);
}

TEST(Failure, ABrokenModelIsTriedAgainAndStoodInFor) {
  for (const Code code : {Code::kUnavailable, Code::kInternal, Code::kIo}) {
    expect(error(code), true, true, true, true);
  }
  for (const RefusalReason reason : {RefusalReason::kBreakerOpen, RefusalReason::kLoading}) {
    expect(refusal(reason), true, true, true, true);
  }
}

TEST(Failure, AFullModelIsNotBroken) {
  expect(error(Code::kResourceExhausted), true, false, true, false);
  expect(refusal(RefusalReason::kQueueFull), true, false, true, false);
  expect(refusal(RefusalReason::kMemory), true, false, true, false);
}

TEST(Failure, TheRestIsFinal) {
  for (const Code code : {Code::kInvalidArgument, Code::kNotFound, Code::kAlreadyExists,
                          Code::kPermissionDenied, Code::kUnsupported, Code::kCancelled}) {
    expect(error(code), false, false, false, false);
  }
  for (const RefusalReason reason : {RefusalReason::kRateLimited, RefusalReason::kDeadline,
                                     RefusalReason::kDraining, RefusalReason::kCancelled}) {
    expect(refusal(reason), false, false, false, false);
  }
}

TEST(Failure, AModelThatNamesATimeIsClosedUntilThen) {
  const auto later = std::chrono::seconds(5);
  EXPECT_TRUE(closed_for_now(Refusal{RefusalReason::kLoading, "", later}));
  EXPECT_TRUE(closed_for_now(Refusal{RefusalReason::kBreakerOpen, "", later}));
  EXPECT_FALSE(closed_for_now(Refusal{RefusalReason::kLoading, "", std::nullopt}));
  // A queue has room again as soon as one request leaves it.
  EXPECT_FALSE(closed_for_now(Refusal{RefusalReason::kQueueFull, "", later}));
  EXPECT_FALSE(closed_for_now(error(Code::kUnavailable)));
}

}  // namespace
}  // namespace weir::upstream
