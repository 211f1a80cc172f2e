// SPDX-License-Identifier: Apache-2.0
//
// JSON for people and programs: as boost::json::serialize(), but 44 rather than 4.4E1.
//
// Thread-safe: a pure function.
#pragma once

#include <boost/json/value.hpp>
#include <string>

namespace weir {

/// One line without blanks. Floating-point numbers are rounded to three decimals, those below 1 to
/// six significant digits, and have no exponent unless they are below 0.0001 or from 10^15 on. What
/// JSON cannot express (infinity, not a number) is null.
[[nodiscard]] std::string to_json_text(const boost::json::value& value);

}  // namespace weir
