// SPDX-License-Identifier: Apache-2.0
//
// Strict reading of a JSON request body. The first violation is kept and names the field, the value
// and the limit; later reads return their fallbacks. JSON null counts as absent, as OpenAI's
// clients send it for options they leave alone.
//
// Thread-safety: a JsonFields belongs to one thread.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/serve/api_error.h"

namespace weir::serve {

/// Parses `body` as one JSON object of at most 32 levels; the error tells the byte position. The
/// object's memory comes from `storage`, which must outlive it.
[[nodiscard]] Outcome<boost::json::object> parse_json_object(std::string_view body,
                                                             boost::json::storage_ptr storage = {});

class JsonFields {
 public:
  explicit JsonFields(const boost::json::object& object) : object_(object) {}

  [[nodiscard]] std::optional<std::string> string(std::string_view name);
  [[nodiscard]] std::optional<std::int64_t> integer(std::string_view name, std::int64_t min,
                                                    std::int64_t max);
  /// `min` itself is excluded when `open_at_min`.
  [[nodiscard]] std::optional<double> number(std::string_view name, double min, double max,
                                             bool open_at_min = false);
  [[nodiscard]] std::optional<bool> boolean(std::string_view name);
  /// One string or a list of at most `max_items`, each of 1..max_bytes bytes; empty when absent.
  [[nodiscard]] std::vector<std::string> strings(std::string_view name, std::size_t max_items,
                                                 std::size_t max_bytes);
  /// A nested object; fields of it are read by another JsonFields. Null when absent.
  [[nodiscard]] const boost::json::object* nested(std::string_view name);
  /// Present and not null.
  [[nodiscard]] const boost::json::value* find(std::string_view name) const;

  void reject(std::string_view name, std::string message);
  void require(std::string_view name);

  [[nodiscard]] const std::optional<ApiError>& error() const { return error_; }

 private:
  void wrong_type(std::string_view name, const boost::json::value& value, std::string_view wanted);

  const boost::json::object& object_;
  std::optional<ApiError> error_;
};

}  // namespace weir::serve
