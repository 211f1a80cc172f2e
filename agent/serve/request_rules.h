// SPDX-License-Identifier: Apache-2.0
//
// What a request must satisfy before a handler sees it, and the words for what it did not.
//
// Thread-safe: pure functions; http_date() reads the wall clock.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "agent/serve/api_error.h"
#include "agent/serve/request_parser.h"

namespace weir::serve {

[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b);

/// The client's x-request-id when it is 1..128 printable characters, else a new one.
[[nodiscard]] std::string request_id(const RequestParser& parser);

/// The answer to a request that could not be parsed: 400, 413 or 431.
[[nodiscard]] ApiError parse_failure(const RequestParser& parser, RequestParser::Status status,
                                     std::uint64_t max_body_bytes);

/// 415 unless the body is declared as plain JSON.
[[nodiscard]] std::optional<ApiError> content_type_error(const RequestParser& parser);

/// Value of the Date header; valid until the next call on this thread.
[[nodiscard]] std::string_view http_date();

}  // namespace weir::serve
