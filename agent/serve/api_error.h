// SPDX-License-Identifier: Apache-2.0
//
// Every answer that is not a success: one shape for all routes, the one OpenAI's clients read,
// {"error":{"message","type","param","code"}}.
//
// Thread-safe: values and pure functions.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/serve/http_message.h"

namespace weir::serve {

struct ApiError {
  unsigned status = 500;
  std::string message;
  std::string code;                  ///< for programs: "invalid_json", "queue_full", ...
  std::optional<std::string> param;  ///< the request field at fault
  /// When trying again makes sense. OpenAI's clients retry 429 and 503 unasked, so an unset value
  /// there tells them not to (x-should-retry: false).
  std::optional<std::chrono::seconds> retry_after;
  std::optional<model::RefusalReason> refusal;
};

/// A value, or the answer to give instead.
template <typename T>
using Outcome = std::variant<T, ApiError>;

[[nodiscard]] ApiError bad_request(std::string code, std::string message,
                                   std::optional<std::string> param = std::nullopt);

/// Client text for use in a message: at most 128 bytes, anything but printable ASCII as '?'.
[[nodiscard]] std::string printable(std::string_view text);

/// 429, or 503 for draining and loading.
[[nodiscard]] ApiError from_refusal(const model::Refusal& refusal);

/// How an accepted request failed.
[[nodiscard]] ApiError from_failure(const Error& error);

/// The body alone, for the error event of a stream that has begun.
[[nodiscard]] std::string error_json(const ApiError& error);

[[nodiscard]] Response to_response(const ApiError& error);

}  // namespace weir::serve
