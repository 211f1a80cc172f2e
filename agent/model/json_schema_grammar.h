// SPDX-License-Identifier: Apache-2.0
//
// A grammar (see grammar.h) of the JSON texts that satisfy a JSON Schema. Every text of the grammar
// satisfies the schema; not every one that satisfies it is of the grammar:
//
//  - the properties of an object come in the order of the schema;
//  - properties that the schema does not name come after them and only where additionalProperties
//    asks for them or there is no `properties`, and their names have no escapes;
//  - between elements stands at most one blank, or one line break and 16 blanks;
//  - numbers have at most 16 digits before and after the point and an exponent of two.
//
// Understood: type (also a list), properties, required, additionalProperties, minProperties and
// maxProperties (without `properties`), items, prefixItems, minItems, maxItems, minLength,
// maxLength, format (date, time, date-time, uuid), minimum and maximum (of integers), enum, const,
// anyOf, oneOf (as anyOf), allOf (of one), $ref to a place in the schema, true. What only describes
// is skipped; anything else is refused rather than ignored.
//
// Thread-safe: pure functions.
#pragma once

#include <boost/json/value.hpp>
#include <string>

#include "agent/base/result.h"

namespace weir::model {

/// Fails with kInvalidArgument, naming the place in the schema as a JSON pointer, what is wrong
/// there and what would be right.
[[nodiscard]] Result<std::string> json_schema_grammar(const boost::json::value& schema);

/// Of any JSON object.
[[nodiscard]] std::string json_object_grammar();

}  // namespace weir::model
