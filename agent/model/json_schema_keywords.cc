// SPDX-License-Identifier: Apache-2.0
#include "agent/model/json_schema_keywords.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <cmath>

#include "agent/model/grammar.h"

namespace weir::model {

namespace json = boost::json;
using Place = SchemaPlace;

namespace {

constexpr std::array<std::string_view, 14> kDescriptions = {
    "title",    "description", "default",    "examples", "$schema", "$id",         "$comment",
    "readOnly", "writeOnly",   "deprecated", "$defs",    "$anchor", "definitions", "discriminator"};

constexpr std::array<std::string_view, 7> kTypes = {"object",  "array",   "string", "number",
                                                    "integer", "boolean", "null"};

std::optional<std::uint32_t> count(const json::object& object, const char* name,
                                   const Place& place) {
  const json::value* value = object.if_contains(name);
  if (value == nullptr) return std::nullopt;
  const auto* number = value->if_int64();
  if (number == nullptr || *number < 0 || *number > Grammar::kMaxRepetitions) {
    fail(place.at(name), fmt::format("must be an integer in 0..{}", Grammar::kMaxRepetitions));
  }
  return static_cast<std::uint32_t>(*number);
}

}  // namespace

SchemaPlace SchemaPlace::at(std::string_view key) const {
  Place inner{pointer + '/', depth + 1};
  for (const char c : key) {
    if (c == '~') {
      inner.pointer += "~0";
    } else if (c == '/') {
      inner.pointer += "~1";
    } else {
      inner.pointer += c;
    }
  }
  return inner;
}

void fail(const Place& place, std::string_view why) {
  throw SchemaFault{fmt::format("schema at {}: {}", place.pointer, why)};
}

void only(const json::object& object, const Place& place,
          const std::vector<std::string_view>& names, std::string_view when) {
  for (const auto& member : object) {
    const std::string_view key(member.key().data(), member.key().size());
    if (std::find(kDescriptions.begin(), kDescriptions.end(), key) == kDescriptions.end() &&
        std::find(names.begin(), names.end(), key) == names.end()) {
      fail(place, fmt::format("\"{}\" is not supported {}: leave it out", key, when));
    }
  }
}
void only_of_types(const json::object& object, const Place& place,
                   const std::vector<std::string>& types) {
  std::vector<std::string_view> known = {"type"};
  for (const std::string& type : types) {
    if (type == "object") {
      known.insert(known.end(), {"properties", "required", "additionalProperties", "minProperties",
                                 "maxProperties"});
    } else if (type == "array") {
      known.insert(known.end(), {"items", "prefixItems", "minItems", "maxItems"});
    } else if (type == "string") {
      known.insert(known.end(), {"minLength", "maxLength", "format"});
    } else if (type == "integer") {
      known.insert(known.end(), {"minimum", "maximum"});
    }
  }
  only(object, place, known, "with this \"type\"");
}

bool has_type(const json::value& value, std::string_view type) {
  switch (value.kind()) {
    case json::kind::null:
      return type == "null";
    case json::kind::bool_:
      return type == "boolean";
    case json::kind::string:
      return type == "string";
    case json::kind::array:
      return type == "array";
    case json::kind::object:
      return type == "object";
    case json::kind::double_:
      return type == "number" ||
             (type == "integer" && value.get_double() == std::trunc(value.get_double()));
    default:
      return type == "number" || type == "integer";
  }
}

std::vector<std::string> types_of(const json::object& object, const Place& place) {
  const json::value* type = object.if_contains("type");
  if (type == nullptr) return {};
  std::vector<std::string> types;
  const auto take = [&](const json::value& name) {
    if (!name.is_string() ||
        std::find(kTypes.begin(), kTypes.end(), view(name.get_string())) == kTypes.end()) {
      fail(place.at("type"),
           "must be object, array, string, number, integer, boolean or null, or a list of them");
    }
    types.emplace_back(view(name.get_string()));
  };
  if (!type->is_array()) {
    take(*type);
  } else {
    for (const json::value& name : type->get_array()) take(name);
    if (types.empty()) fail(place.at("type"), "must name a type");
  }
  return types;
}

std::string SchemaBounds::repetition(std::uint32_t less) const {
  const std::uint32_t from = min > less ? min - less : 0;
  if (!max) return fmt::format("{{{},}}", from);
  return fmt::format("{{{},{}}}", from, *max - less);
}

SchemaBounds bounds_of(const json::object& object, const char* min, const char* max,
                       const Place& place) {
  SchemaBounds bounds{count(object, min, place).value_or(0), count(object, max, place)};
  if (bounds.max && *bounds.max < bounds.min) {
    fail(place, fmt::format("\"{}\" is below \"{}\"", max, min));
  }
  return bounds;
}

std::set<std::string, std::less<>> required_of(const json::object& object,
                                               const json::object* properties, const Place& place) {
  std::set<std::string, std::less<>> names;
  const json::value* required = object.if_contains("required");
  if (required == nullptr) return names;
  if (!required->is_array()) fail(place.at("required"), "must be a list of names");
  for (const json::value& name : required->get_array()) {
    if (!name.is_string()) fail(place.at("required"), "must be a list of names");
    if (properties != nullptr && !properties->contains(name.get_string())) {
      fail(place.at("required"),
           fmt::format("\"{}\" is not among \"properties\": describe it there",
                       view(name.get_string())));
    }
    names.emplace(view(name.get_string()));
  }
  return names;
}

}  // namespace weir::model
