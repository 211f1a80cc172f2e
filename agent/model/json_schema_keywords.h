// SPDX-License-Identifier: Apache-2.0
//
// Reading the keywords of a JSON Schema, for json_schema_grammar.cc: what each may say, and the
// place that an error names. Throws SchemaFault, which goes no further than that file.
//
// Thread-safe: pure functions.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace weir::model {

struct SchemaFault {
  std::string message;
};

/// A place in a schema.
struct SchemaPlace {
  std::string pointer;  ///< "#/properties/a"
  std::size_t depth = 0;

  [[nodiscard]] SchemaPlace at(std::string_view key) const;
  [[nodiscard]] SchemaPlace at(std::size_t index) const { return at(std::to_string(index)); }
};

[[noreturn]] void fail(const SchemaPlace& place, std::string_view why);

[[nodiscard]] inline std::string_view view(const boost::json::string& text) {
  return {text.data(), text.size()};
}

/// Refuses every keyword but these and those that only describe.
void only(const boost::json::object& object, const SchemaPlace& place,
          const std::vector<std::string_view>& names, std::string_view when);
/// Refuses every keyword that none of the types has.
void only_of_types(const boost::json::object& object, const SchemaPlace& place,
                   const std::vector<std::string>& types);

/// What "type" says; empty: there is none.
[[nodiscard]] std::vector<std::string> types_of(const boost::json::object& object,
                                                const SchemaPlace& place);
[[nodiscard]] bool has_type(const boost::json::value& value, std::string_view type);

struct SchemaBounds {
  std::uint32_t min = 0;
  std::optional<std::uint32_t> max;

  /// {m,n} of a grammar; `less`: of which so many stand before.
  [[nodiscard]] std::string repetition(std::uint32_t less = 0) const;
};

/// What the two keywords say.
[[nodiscard]] SchemaBounds bounds_of(const boost::json::object& object, const char* min,
                                     const char* max, const SchemaPlace& place);

/// What "required" says. All must be in `properties`, unless it is null.
[[nodiscard]] std::set<std::string, std::less<>> required_of(const boost::json::object& object,
                                                             const boost::json::object* properties,
                                                             const SchemaPlace& place);

}  // namespace weir::model
