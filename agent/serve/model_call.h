// SPDX-License-Identifier: Apache-2.0
//
// What every request to a model goes through between its parsing and its submission, and how its
// failures are told, whatever the model is for.
//
// Thread-safety: functions are called on I/O threads.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/serve/api_error.h"
#include "agent/serve/exchange.h"
#include "agent/serve/handlers.h"
#include "agent/serve/json_fields.h"

namespace weir::serve {

/// What any body may say of how it is to be served; unset: it does not.
struct CallTerms {
  std::optional<std::string> model;
  std::optional<std::int32_t> priority;
  std::optional<TimePoint> deadline;
};

/// "model", "priority" and "deadline_ms", which counts from `now`.
[[nodiscard]] CallTerms read_terms(JsonFields& fields, TimePoint now);

[[nodiscard]] ApiError unknown_model(const model::Executor& executor, std::string_view name);

/// The model asked for by body or header, or the only one there is for this. 400 where it is for
/// something else.
///
/// Where body and header both say: two models that differ are an error, because the limits of the
/// header's one have been applied.
[[nodiscard]] Outcome<std::string> choose_model(const Services& services,
                                                const std::optional<std::string>& asked,
                                                const Request& head, model::Task task);

/// Route, tenant, level, deadline and reservation. Of two deadlines the earlier one holds; the
/// priority of the body holds, as it is the more particular.
void apply_head(model::GenerationRequest& request, std::optional<std::int32_t> priority,
                const Request& head);

/// Corrects what admission has set aside. Set: the answer to give instead.
[[nodiscard]] std::optional<ApiError> settle_admission(const Services& services,
                                                       const Request& head,
                                                       const std::string& model,
                                                       const model::GenerationRequest& request);

/// Of a request that was accepted. `services` only where the server is known to live: on an I/O
/// thread.
[[nodiscard]] ApiError call_failure(const Services& services, std::optional<TimePoint> deadline,
                                    const Error& error);

/// Has the client's leaving cancel the request, submits it, and answers when it is refused.
void submit_call(const Services& services, const std::shared_ptr<Exchange>& exchange,
                 const std::string& model,
                 const std::shared_ptr<model::GenerationRequest>& request);

}  // namespace weir::serve
