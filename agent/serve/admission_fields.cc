// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/admission_fields.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "agent/schedule/level.h"

namespace weir::serve {
namespace {

constexpr std::size_t kMaxTenantBytes = 64;
constexpr std::size_t kMaxModelBytes = 128;

bool is_name(std::string_view text, std::size_t max_bytes) {
  return !text.empty() && text.size() <= max_bytes &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

ApiError bad_field(std::string_view name, std::string_view value, std::string_view wanted) {
  std::string message(name);
  message.append(" must be ").append(wanted).append(", not \"");
  message.append(printable(value)).append("\"");
  return bad_request("invalid_header", std::move(message), std::string(name));
}

std::string name_wanted(std::size_t max_bytes) {
  return "1.." + std::to_string(max_bytes) + " characters of [A-Za-z0-9._-]";
}

std::optional<std::int64_t> integer_in(std::string_view text, std::int64_t min, std::int64_t max) {
  std::int64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = status == std::errc{} && end == text.data() + text.size();
  return whole && value >= min && value <= max ? std::optional(value) : std::nullopt;
}

/// Of two fields of one name, the proxy that made the request and we might each go by another.
std::optional<ApiError> sent_twice(const RequestParser& parser, std::string_view tenant_header) {
  for (const std::string_view name :
       {tenant_header, kModelHeader, kPriorityHeader, kTimeoutHeader}) {
    if (parser.count(name) < 2) continue;
    return bad_request("invalid_header", std::string(name) + " must not be sent more than once",
                       std::string(name));
  }
  return std::nullopt;
}

}  // namespace

Outcome<AdmissionFields> read_admission_fields(const RequestParser& parser,
                                               std::string_view tenant_header) {
  if (auto error = sent_twice(parser, tenant_header)) return *std::move(error);
  AdmissionFields fields;
  fields.tenant = parser.field(tenant_header);
  if (fields.tenant.has_value() && !is_name(*fields.tenant, kMaxTenantBytes)) {
    return bad_field(tenant_header, *fields.tenant, name_wanted(kMaxTenantBytes));
  }
  fields.model = parser.field(kModelHeader);
  if (fields.model.has_value() && !is_name(*fields.model, kMaxModelBytes)) {
    return bad_field(kModelHeader, *fields.model, name_wanted(kMaxModelBytes));
  }
  if (const auto text = parser.field(kPriorityHeader)) {
    const auto level = integer_in(*text, 0, schedule::kLevels - 1);
    if (!level.has_value()) {
      return bad_field(kPriorityHeader, *text,
                       "an integer in 0.." + std::to_string(schedule::kLevels - 1));
    }
    fields.level = static_cast<std::int32_t>(*level);
  }
  if (const auto text = parser.field(kTimeoutHeader)) {
    const auto timeout = integer_in(*text, 1, kMaxTimeoutMs);
    if (!timeout.has_value()) {
      return bad_field(kTimeoutHeader, *text, "an integer in 1.." + std::to_string(kMaxTimeoutMs));
    }
    fields.timeout = std::chrono::milliseconds(*timeout);
  }
  return fields;
}

}  // namespace weir::serve
