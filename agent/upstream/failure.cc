// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/failure.h"

namespace weir::upstream {
namespace {

using schedule::Refusal;
using schedule::RefusalReason;

enum class Kind { kBroken, kFull, kFinal };

Kind kind_of(const Failure& failure) {
  if (const auto* refusal = std::get_if<Refusal>(&failure)) {
    switch (refusal->reason) {
      case RefusalReason::kBreakerOpen:
      case RefusalReason::kLoading:
        return Kind::kBroken;
      case RefusalReason::kQueueFull:
      case RefusalReason::kMemory:
        return Kind::kFull;
      case RefusalReason::kRateLimited:
      case RefusalReason::kDeadline:
      case RefusalReason::kDraining:
      case RefusalReason::kCancelled:
        return Kind::kFinal;
    }
    return Kind::kFinal;
  }
  switch (std::get<Error>(failure).code) {
    case Code::kUnavailable:
    case Code::kInternal:
    case Code::kIo:
      return Kind::kBroken;
    case Code::kResourceExhausted:
      return Kind::kFull;
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kAlreadyExists:
    case Code::kPermissionDenied:
    case Code::kUnsupported:
    case Code::kCancelled:
      return Kind::kFinal;
  }
  return Kind::kFinal;
}

}  // namespace

bool worth_retrying(const Failure& failure) { return kind_of(failure) != Kind::kFinal; }

bool speaks_against_model(const Failure& failure) { return kind_of(failure) == Kind::kBroken; }

bool closed_for_now(const Failure& failure) {
  const auto* refusal = std::get_if<Refusal>(&failure);
  return refusal != nullptr && kind_of(failure) == Kind::kBroken &&
         refusal->retry_after.has_value();
}

bool may_answer_from_cache(const Failure& failure) { return kind_of(failure) != Kind::kFinal; }

bool may_answer_default(const Failure& failure) { return kind_of(failure) == Kind::kBroken; }

}  // namespace weir::upstream
