// SPDX-License-Identifier: Apache-2.0
//
// The range and the default of every configuration field that has one, in one table, and the
// reading of a scalar under these rules. The table is the only place where a limit is written in
// code; the comments of config.proto and deploy/config/README.md repeat it for people and
// field_rules_test.cc compares them.
//
// Thread-safe: constants and pure functions.
#pragma once

#include <google/protobuf/message.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace weir::config {

struct Range {
  double min = 0;
  double max = 0;
};

struct FieldRule {
  std::string_view field;  ///< full protobuf name
  /// Range of a number, or of the number of items of a list.
  std::optional<Range> range;
  /// The default as one would write it in the file; kOnePerCpu, kOnePerTwoCpus; empty: none.
  std::string_view default_value;
};

/// Default: as many as the CPUs on which this process may run, within the range of the field.
inline constexpr std::string_view kOnePerCpu = "<one per CPU>";
/// Half as many, and at least one.
inline constexpr std::string_view kOnePerTwoCpus = "<one per two CPUs>";

[[nodiscard]] std::span<const FieldRule> field_rules();
/// Null when the field has no rule.
[[nodiscard]] const FieldRule* find_rule(const google::protobuf::FieldDescriptor& field);

/// "0.01..1000".
[[nodiscard]] std::string to_string(const Range& range);

/// Sets a singular scalar field from its text in the file. `was_quoted`: the text stood in quotes
/// and so is a string or a name, never a number or a bool. Names of enums are taken in lower case,
/// as documented, and as the protobuf writes them. Returns what is wrong with it; then the
/// message is unchanged.
[[nodiscard]] std::optional<std::string> set_scalar(google::protobuf::Message& message,
                                                    const google::protobuf::FieldDescriptor& field,
                                                    const std::string& text, bool was_quoted);

/// Sets every field that is unset and has a default, in `message` and all messages below it.
void fill_defaults(google::protobuf::Message& message);

}  // namespace weir::config
