// SPDX-License-Identifier: Apache-2.0
#include "agent/model/json_schema_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/model/grammar.h"
#include "agent/model/integer_range_grammar.h"
#include "agent/model/json_schema_keywords.h"

namespace weir::model {

namespace json = boost::json;
using Place = SchemaPlace;

namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxNameBytes = 256;  // each is a rule in another

// What JSON itself is (RFC 8259), with bounds on what a model could go on with for ever. Halves of
// surrogate pairs come in pairs only.
constexpr std::string_view kCommonRules = R"gbnf(
ws ::= (" " | "\n" " "{0,16})?
hex ::= [0-9a-fA-F]
plain ::= [^"\\\x00-\x1F]
low-half ::= "\\u" [dD] [c-fC-F] hex{2}
char ::= plain | "\\" (["\\/bfnrt] | "u" ([0-9a-ce-fA-CE-F] hex{3} | [dD] ([0-7] hex{2} | [89abAB] hex{2} low-half)))
string ::= "\"" char* "\""
digits ::= "0" | [1-9] [0-9]{0,15}
integer ::= "-"? digits
number ::= integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?
boolean ::= "true" | "false"
null ::= "null"
member ::= string ws ":" ws value
object ::= "{" ws (member ws ("," ws member ws)*)? "}"
array ::= "[" ws (value ws ("," ws value ws)*)? "]"
value ::= object | array | string | number | boolean | null
year ::= [0-9]{4}
date ::= year "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])
time ::= ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,9})? ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])
uuid ::= hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}
)gbnf";

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// As a terminal of a grammar.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string json_literal(const json::value& value) {
  // Not as Boost.JSON would write it: 2.5E0.
  if (value.is_double()) return quoted(fmt::format("{}", value.get_double()));
  return quoted(json::serialize(value));
}

class Converter {
 public:
  explicit Converter(const json::value& schema) : root_(schema) {}

  Result<std::string> run() {
    try {
      const std::string whole = reference("#");
      std::string grammar =
          fmt::format("root ::= {}\n", whole) + std::string(kCommonRules) + rules_;
      return grammar;
    } catch (SchemaFault& fault) {
      return make_error(Code::kInvalidArgument, std::move(fault.message));
    }
  }

 private:
  std::string add_rule(std::string_view expression) {
    std::string name = fmt::format("r{}", next_rule_++);
    rules_ += fmt::format("{} ::= {}\n", name, expression);
    if (rules_.size() + kCommonRules.size() + 64 > Grammar::kMaxBytes) {
      throw SchemaFault{fmt::format("schema: it is too large: its grammar has more than {} bytes",
                                    Grammar::kMaxBytes)};
    }
    return name;
  }

  // ---- places and references --------------------------------------------------------------------

  const json::value& find(const Place& user, std::string_view pointer) const {
    const json::value* found = nullptr;
    if (pointer == "#") {
      found = &root_;
    } else if (pointer.starts_with("#/")) {
      json::error_code failure;
      found = root_.find_pointer({pointer.data() + 1, pointer.size() - 1}, failure);
    }
    if (found == nullptr) {
      fail(user,
           fmt::format("\"$ref\" must point into this schema, as #/$defs/name, not {}", pointer));
    }
    return *found;
  }

  /// The rule for what is at the pointer: one, however many refer to it, also from within it.
  std::string reference(std::string_view pointer, const Place& user = {"#", 0}) {
    const json::value& schema = find(user, pointer);
    const auto [known, added] = references_.emplace(std::string(pointer), "");
    if (!added) return known->second;
    known->second = fmt::format("r{}", next_rule_++);
    const std::string name = known->second;
    const std::string expression = visit(schema, {std::string(pointer), user.depth + 1});
    rules_ += fmt::format("{} ::= {}\n", name, expression);
    return name;
  }

  // ---- values -----------------------------------------------------------------------------------

  /// An expression that can stand in a sequence.
  std::string visit(const json::value& schema, const Place& place) {
    if (place.depth > kMaxDepth) fail(place, fmt::format("nested deeper than {}", kMaxDepth));
    if (schema.is_bool()) {
      if (schema.get_bool()) return "value";
      fail(place, "false allows nothing; give a schema of what is allowed");
    }
    if (!schema.is_object()) fail(place, "must be a schema: an object, or true");
    const json::object& object = schema.get_object();
    if (const json::value* ref = object.if_contains("$ref")) {
      only(object, place, {"$ref"}, "beside \"$ref\"");
      if (!ref->is_string()) fail(place, "\"$ref\" must be a string");
      return reference(view(ref->get_string()), place);
    }
    if (object.contains("const") || object.contains("enum")) return literals(object, place);
    for (const char* const choice : {"anyOf", "oneOf"}) {
      if (const json::value* options = object.if_contains(choice)) {
        only(object, place, {choice}, fmt::format("beside \"{}\"", choice));
        return alternatives(*options, place.at(choice));
      }
    }
    if (const json::value* all = object.if_contains("allOf")) {
      only(object, place, {"allOf"}, "beside \"allOf\"");
      if (!all->is_array() || all->get_array().size() != 1) {
        fail(place, "\"allOf\" is supported with one schema only: merge them into one");
      }
      return visit(all->get_array().front(), place.at("allOf").at(0));
    }
    return by_type(object, place);
  }

  std::string alternatives(const json::value& options, const Place& place) {
    if (!options.is_array() || options.get_array().empty()) {
      fail(place, "must be a list of at least one schema");
    }
    std::string expression;
    for (std::size_t i = 0; i < options.get_array().size(); ++i) {
      if (i > 0) expression += " | ";
      expression += visit(options.get_array()[i], place.at(i));
    }
    return add_rule(expression);
  }

  std::string literals(const json::object& object, const Place& place) {
    only(object, place, {"const", "enum", "type"}, "beside \"enum\" and \"const\"");
    std::vector<json::value> values;
    if (const json::value* value = object.if_contains("const")) {
      values.push_back(*value);
    } else {
      const json::value& list = object.at("enum");
      if (!list.is_array() || list.get_array().empty()) {
        fail(place.at("enum"), "must be a list of at least one value");
      }
      values.assign(list.get_array().begin(), list.get_array().end());
    }
    const std::vector<std::string> types = types_of(object, place);
    std::string expression;
    for (const json::value& value : values) {
      if (!types.empty() && std::none_of(types.begin(), types.end(),
                                         [&](const auto& type) { return has_type(value, type); })) {
        continue;
      }
      if (!expression.empty()) expression += " | ";
      expression += json_literal(value);
    }
    if (expression.empty()) fail(place, "no value of it is of its \"type\"");
    return add_rule(expression);
  }

  std::string by_type(const json::object& object, const Place& place) {
    std::vector<std::string> types = types_of(object, place);
    if (types.empty()) {
      // Who says how its properties are means an object.
      const auto has = [&](std::initializer_list<const char*> names) {
        return std::any_of(names.begin(), names.end(),
                           [&](const char* name) { return object.contains(name); });
      };
      if (has({"properties", "required", "additionalProperties", "minProperties",
               "maxProperties"})) {
        types = {"object"};
      } else if (has({"items", "prefixItems", "minItems", "maxItems"})) {
        types = {"array"};
      } else if (has({"minLength", "maxLength", "format"})) {
        types = {"string"};
      } else {
        only(object, place, {}, "without \"type\"");
        return "value";
      }
    }
    only_of_types(object, place, types);
    std::string expression;
    for (const std::string& type : types) {
      if (!expression.empty()) expression += " | ";
      expression += of_type(type, object, place);
    }
    return types.size() == 1 ? expression : add_rule(expression);
  }

  std::string of_type(std::string_view type, const json::object& object, const Place& place) {
    if (type == "object") return object_of(object, place);
    if (type == "array") return array_of(object, place);
    if (type == "string") return string_of(object, place);
    if (type == "integer") return integer_of(object, place);
    return std::string(type);  // has a rule of that name
  }

  /// An opening bracket, `item` as often as `bounds` say with commas between, the closing one.
  std::string list(char open, std::string_view item, const SchemaBounds& bounds, char close) {
    if (bounds.max == 0U) return add_rule(fmt::format("\"{}\" ws \"{}\"", open, close));
    std::string items = fmt::format("{} ws (\",\" ws {} ws){}", item, item, bounds.repetition(1));
    if (bounds.min == 0) items = fmt::format("({})?", items);
    return add_rule(fmt::format("\"{}\" ws {} \"{}\"", open, items, close));
  }

  // ---- types ------------------------------------------------------------------------------------

  std::string string_of(const json::object& object, const Place& place) {
    const SchemaBounds length = bounds_of(object, "minLength", "maxLength", place);
    if (const json::value* format = object.if_contains("format")) {
      if (object.contains("minLength") || object.contains("maxLength")) {
        fail(place, "\"format\" is not supported beside lengths: leave one of them out");
      }
      const std::string_view name =
          format->is_string() ? view(format->get_string()) : std::string_view();
      if (name == "date-time") return add_rule(R"("\"" date "T" time "\"")");
      if (is_one_of(name, {"date", "time", "uuid"})) {
        return add_rule(fmt::format(R"("\"" {} "\"")", name));
      }
      fail(place.at("format"),
           "must be date, time, date-time or uuid: others are not supported, leave it out");
    }
    if (length.min == 0 && !length.max) return "string";
    return add_rule(fmt::format(R"("\"" char{} "\"")", length.repetition()));
  }

  std::string integer_of(const json::object& object, const Place& place) {
    const auto bound = [&](const char* name) -> std::optional<std::int64_t> {
      const json::value* value = object.if_contains(name);
      if (value == nullptr) return std::nullopt;
      const auto* number = value->if_int64();
      if (number == nullptr || std::abs(*number) > kMaxIntegerBound) {
        fail(place.at(name),
             fmt::format("must be an integer in {}..{}", -kMaxIntegerBound, kMaxIntegerBound));
      }
      return *number;
    };
    const auto min = bound("minimum");
    const auto max = bound("maximum");
    if (!min && !max) return "integer";
    if (min && max && *min > *max) fail(place, "\"maximum\" is below \"minimum\"");
    return add_rule(
        integer_range_grammar(min.value_or(-kMaxIntegerBound), max.value_or(kMaxIntegerBound)));
  }

  std::string array_of(const json::object& object, const Place& place) {
    SchemaBounds length = bounds_of(object, "minItems", "maxItems", place);
    const json::value* items = object.if_contains("items");
    const bool no_items = items != nullptr && items->is_bool() && !items->get_bool();
    const json::value* prefix = object.if_contains("prefixItems");
    if (prefix == nullptr) {
      if (no_items) {
        if (length.min > 0) fail(place, "\"minItems\" asks for what \"items\" forbids");
        length.max = 0;
      }
      if (length.max == 0U) return list('[', "", length, ']');
      return list('[', items == nullptr ? "value" : visit(*items, place.at("items")), length, ']');
    }
    if (!prefix->is_array() || prefix->get_array().empty()) {
      fail(place.at("prefixItems"), "must be a list of at least one schema");
    }
    const auto first = static_cast<std::uint32_t>(prefix->get_array().size());
    const bool more = items != nullptr && !no_items;
    if (length.max.value_or(first) < first || (!more && length.min > first)) {
      fail(place, fmt::format("its length must allow for the {} of \"prefixItems\"", first));
    }
    std::string expression = "\"[\" ws ";
    for (std::uint32_t i = 0; i < first; ++i) {
      if (i > 0) expression += "\",\" ws ";
      expression += visit(prefix->get_array()[i], place.at("prefixItems").at(i)) + " ws ";
    }
    if (more) {
      expression += fmt::format("(\",\" ws {} ws){} ", visit(*items, place.at("items")),
                                length.repetition(first));
    }
    return add_rule(expression + "\"]\"");
  }

  std::string object_of(const json::object& object, const Place& place) {
    const json::value* additional = object.if_contains("additionalProperties");
    const json::value* properties = object.if_contains("properties");
    if (properties != nullptr && !properties->is_object()) {
      fail(place.at("properties"), "must be an object of schemas");
    }
    const bool closed = additional != nullptr && additional->is_bool() && !additional->get_bool();
    const SchemaBounds size = bounds_of(object, "minProperties", "maxProperties", place);
    if (properties == nullptr || properties->get_object().empty()) {
      if (!required_of(object, nullptr, place).empty()) {
        fail(place, "\"required\" names what \"properties\" does not have: describe it there");
      }
      if (closed) {
        if (size.min > 0) fail(place, "\"minProperties\" asks for what is forbidden");
        return list('{', "", {0, 0}, '}');
      }
      const std::string value =
          additional == nullptr ? "value" : visit(*additional, place.at("additionalProperties"));
      // Also where the names are free none comes twice only by chance: JSON allows it.
      return list('{', add_rule(fmt::format("string ws \":\" ws {}", value)), size, '}');
    }
    if (object.contains("minProperties") || object.contains("maxProperties")) {
      fail(place,
           "\"minProperties\" and \"maxProperties\" are not supported beside \"properties\": leave "
           "them out");
    }
    return named_members(object, properties->get_object(),
                         additional == nullptr || closed ? nullptr : additional, place);
  }

  /// From the last member backwards: what may follow when one stands before already, and what when
  /// none does.
  std::string named_members(const json::object& object, const json::object& properties,
                            const json::value* additional, const Place& place) {
    const auto required = required_of(object, &properties, place);
    std::vector<std::pair<std::string, bool>> members;  // with whether it is required
    std::vector<std::string> names;
    for (const auto& property : properties) {
      const std::string_view name(property.key().data(), property.key().size());
      names.emplace_back(name);
      const std::string value = visit(property.value(), place.at("properties").at(name));
      members.emplace_back(
          add_rule(fmt::format("{} ws \":\" ws {} ws", quoted(json::serialize(json::string(name))),
                               value)),
          required.contains(name));
    }
    std::string after = "\"\"";
    std::string first = "\"\"";
    if (additional != nullptr) {
      const std::string extra =
          add_rule(fmt::format("{} ws \":\" ws {} ws", name_but(names, place),
                               visit(*additional, place.at("additionalProperties"))));
      after = add_rule(fmt::format("(\",\" ws {})*", extra));
      first = add_rule(fmt::format("({} {})?", extra, after));
    }
    for (auto member = members.rbegin(); member != members.rend(); ++member) {
      const auto& [rule, is_required] = *member;
      const std::string here = fmt::format("{} {}", rule, after);
      first = add_rule(is_required ? here : fmt::format("{} | {}", here, first));
      after = add_rule(is_required ? fmt::format("\",\" ws {}", here)
                                   : fmt::format("\",\" ws {} | {}", here, after));
    }
    return add_rule(fmt::format("\"{{\" ws {} \"}}\"", first));
  }

  /// A name, in quotes, that is none of these. Without escapes, with which it could be one of them
  /// in disguise.
  std::string name_but(const std::vector<std::string>& names, const Place& place) {
    for (const std::string& name : names) {
      if (name.size() <= kMaxNameBytes) continue;
      fail(place.at("additionalProperties"),
           fmt::format("beside a property's name of {} bytes it is not supported, of {} at most",
                       name.size(), kMaxNameBytes));
    }
    std::vector<std::string_view> sorted(names.begin(), names.end());
    std::sort(sorted.begin(), sorted.end());
    return add_rule(fmt::format("\"\\\"\" {} \"\\\"\"", rest_but(sorted, 0)));
  }

  /// The rest of a name that has its first `matched` bytes in common with these, sorted.
  std::string rest_but(const std::vector<std::string_view>& names, std::size_t matched) {
    std::string others = "[^\"\\\\\\x00-\\x1F";
    std::string expression;
    const bool ends_here = names.front().size() == matched;
    for (std::size_t i = ends_here ? 1 : 0; i < names.size();) {
      const std::size_t length = character_length(names[i][matched]);
      const std::string_view character = names[i].substr(matched, length);
      std::vector<std::string_view> same;
      while (i < names.size() && names[i].substr(matched, length) == character) {
        same.push_back(names[i++]);
      }
      // A name with a character that must be escaped has no double among plain names.
      if (character == "\"" || character == "\\" ||
          static_cast<unsigned char>(character[0]) < 0x20) {
        continue;
      }
      const bool special = is_one_of(character, {"]", "[", "-"});
      others += (special ? "\\" : "") + std::string(character);
      expression += fmt::format(" | {} {}", quoted(character), rest_but(same, matched + length));
    }
    return add_rule(fmt::format("{}] plain*{}{}", others, expression, ends_here ? "" : " | \"\""));
  }

  static std::size_t character_length(char first) {
    const auto lead = static_cast<unsigned char>(first);
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  }

  const json::value& root_;
  std::string rules_;
  std::size_t next_rule_ = 0;
  std::map<std::string, std::string> references_;  ///< pointer to rule
};

}  // namespace

Result<std::string> json_schema_grammar(const json::value& schema) {
  return Converter(schema).run();
}

std::string json_object_grammar() { return "root ::= object\n" + std::string(kCommonRules); }

}  // namespace weir::model
