// SPDX-License-Identifier: Apache-2.0
//
// What a failed attempt means: whether another one may help, whether it speaks against the model,
// and what a client may be given in place of an answer.
//
// | the attempt ended with | tried again | against the model | degraded answer |
// |---|---|---|---|
// | breaker_open, loading | yes, at another model only before its Retry-After | yes | any |
// | unavailable, internal, an I/O error | yes | yes | any |
// | queue_full, memory, a bound reached | yes | no: full is not broken | a kept one |
// | anything else: wrong input, cancelled, rate_limited, deadline, draining | no | no | none |
//
// Under overload a configured text would hide the overload from those who could slow down; a kept
// answer is the right one. A draining agent's client does better elsewhere. Past its deadline a
// request is neither tried again nor degraded, whatever the failure (agent/upstream/policy_call).
//
// Thread-safe: pure functions.
#pragma once

#include <variant>

#include "agent/base/result.h"
#include "agent/schedule/refusal.h"

namespace weir::upstream {

/// Why an attempt, or all that could be done for a request, came to nothing.
using Failure = std::variant<Error, schedule::Refusal>;

[[nodiscard]] bool worth_retrying(const Failure& failure);
[[nodiscard]] bool speaks_against_model(const Failure& failure);
/// The model has said itself that it cannot be asked until later.
[[nodiscard]] bool closed_for_now(const Failure& failure);
[[nodiscard]] bool may_answer_from_cache(const Failure& failure);
[[nodiscard]] bool may_answer_default(const Failure& failure);

}  // namespace weir::upstream
