// SPDX-License-Identifier: Apache-2.0
#include "agent/model/integer_range_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace weir::model {

namespace {

using Alternatives = std::vector<std::string>;

std::string digits(char first, char last) {
  if (first > last) return {};
  return first == last ? fmt::format("\"{}\"", first) : fmt::format("[{}-{}]", first, last);
}

std::string any_digits(std::size_t count) {
  return count == 0 ? "" : fmt::format(" [0-9]{{{}}}", count);
}

/// Numbers of as many digits as both have, from `low` to `high`, after `prefix`.
void add_same_length(Alternatives& out, std::string prefix, std::string_view low,
                     std::string_view high) {
  while (!low.empty() && low.front() == high.front()) {
    prefix += low.front();
    low.remove_prefix(1);
    high.remove_prefix(1);
  }
  const std::string begin = prefix.empty() ? "" : fmt::format("\"{}\" ", prefix);
  if (low.empty()) {
    out.push_back(fmt::format("\"{}\"", prefix));
    return;
  }
  const std::size_t rest = low.size() - 1;
  const bool low_open = low.substr(1).find_first_not_of('0') == std::string_view::npos;
  const bool high_open = high.substr(1).find_first_not_of('9') == std::string_view::npos;
  // First digits that leave the others free; those of the bounds themselves apart if need be.
  const char first = static_cast<char>(low.front() + (low_open ? 0 : 1));
  const char last = static_cast<char>(high.front() - (high_open ? 0 : 1));
  if (const std::string between = digits(first, last); !between.empty()) {
    out.push_back(begin + between + any_digits(rest));
  }
  if (!low_open) {
    add_same_length(out, prefix + low.front(), low.substr(1), std::string(rest, '9'));
  }
  if (!high_open) {
    add_same_length(out, prefix + high.front(), std::string(rest, '0'), high.substr(1));
  }
}

/// 0 <= min <= max.
Alternatives natural_numbers(std::int64_t min, std::int64_t max) {
  Alternatives out;
  const std::string low = std::to_string(min);
  const std::string high = std::to_string(max);
  for (std::size_t length = low.size(); length <= high.size(); ++length) {
    const std::string least = '1' + std::string(length - 1, '0');
    const std::string most(length, '9');
    add_same_length(out, "", length == low.size() ? low : least,
                    length == high.size() ? high : most);
  }
  return out;
}

std::string joined(const Alternatives& alternatives) {
  std::string text;
  for (const std::string& each : alternatives) {
    if (!text.empty()) text += " | ";
    text += each;
  }
  return text;
}

}  // namespace

std::string integer_range_grammar(std::int64_t min, std::int64_t max) {
  std::string negative;
  std::string natural;
  if (min < 0) {
    negative =
        fmt::format("\"-\" ({})", joined(natural_numbers(std::max<std::int64_t>(-max, 1), -min)));
  }
  if (max >= 0) natural = joined(natural_numbers(std::max<std::int64_t>(min, 0), max));
  if (negative.empty()) return natural;
  return natural.empty() ? negative : negative + " | " + natural;
}

}  // namespace weir::model
