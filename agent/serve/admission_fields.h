// SPDX-License-Identifier: Apache-2.0
//
// The header fields that admission goes by, so that nothing of the body has to be read for it.
//
// Thread-safe: pure functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

#include "agent/serve/api_error.h"
#include "agent/serve/request_parser.h"

namespace weir::serve {

inline constexpr std::string_view kModelHeader = "x-weir-model";
inline constexpr std::string_view kPriorityHeader = "x-weir-priority";
inline constexpr std::string_view kTimeoutHeader = "x-weir-timeout-ms";
inline constexpr std::int64_t kMaxTimeoutMs = 24LL * 60 * 60 * 1000;

/// What is unset was not sent. The texts are the parser's, and live as long as its header.
struct AdmissionFields {
  std::optional<std::string_view> tenant;
  std::optional<std::string_view> model;
  std::optional<std::int32_t> level;
  std::optional<std::chrono::milliseconds> timeout;
};

/// The fields, or 400 that names the first bad one, its value and what it may be. None may be sent
/// twice.
[[nodiscard]] Outcome<AdmissionFields> read_admission_fields(const RequestParser& parser,
                                                             std::string_view tenant_header);

}  // namespace weir::serve
