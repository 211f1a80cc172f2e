// SPDX-License-Identifier: Apache-2.0
//
// The table of ranges and defaults against the messages it speaks of and the reference that people
// read.
#include "agent/config/field_rules.h"

#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>

#include "weir/v1/config.pb.h"

namespace weir::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

/// Every field of Config and of the messages below it.
void each_field(const Descriptor& message,
                const std::function<void(const FieldDescriptor&)>& visit) {
  for (int i = 0; i < message.field_count(); ++i) {
    visit(*message.field(i));
    if (message.field(i)->message_type() != nullptr) {
      each_field(*message.field(i)->message_type(), visit);
    }
  }
}

std::string readme() {
  std::ifstream file("deploy/config/README.md");
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The table row of a field in the README: the line "| `NAME` | ..." below the heading of its
/// message.
std::string readme_row(const FieldDescriptor& field) {
  const std::string text = readme();
  const auto section = text.find("\n## " + field.containing_type()->name() + "\n");
  if (section == std::string::npos) return {};
  const auto next = text.find("\n## ", section + 1);
  const auto row = text.find("\n| `" + field.name() + "` |", section);
  if (row == std::string::npos || row > next) return {};
  return text.substr(row + 1, text.find('\n', row + 1) - row - 1);
}

/// The table tells such a default in words.
bool depends_on_cpus(const FieldRule& rule) {
  return rule.default_value == kOnePerCpu || rule.default_value == kOnePerTwoCpus;
}

TEST(FieldRules, NameFieldsThatExist) {
  std::set<std::string> fields;
  each_field(*weir::v1::Config::descriptor(),
             [&](const FieldDescriptor& field) { fields.insert(field.full_name()); });
  for (const auto& rule : field_rules()) {
    EXPECT_TRUE(fields.contains(std::string(rule.field))) << rule.field;
  }
}

TEST(FieldRules, EveryNumberAndEveryListIsBounded) {
  each_field(*weir::v1::Config::descriptor(), [](const FieldDescriptor& field) {
    const auto type = field.cpp_type();
    const bool bounded = field.is_repeated() || type == FieldDescriptor::CPPTYPE_UINT32 ||
                         type == FieldDescriptor::CPPTYPE_UINT64 ||
                         type == FieldDescriptor::CPPTYPE_DOUBLE;
    const auto* const rule = find_rule(field);
    EXPECT_EQ(bounded, rule != nullptr && rule->range.has_value()) << field.full_name();
  });
}

TEST(FieldRules, EveryFieldHasATypeThatTheLoaderReads) {
  const std::set<FieldDescriptor::CppType> readable = {
      FieldDescriptor::CPPTYPE_STRING, FieldDescriptor::CPPTYPE_BOOL,
      FieldDescriptor::CPPTYPE_ENUM,   FieldDescriptor::CPPTYPE_UINT32,
      FieldDescriptor::CPPTYPE_UINT64, FieldDescriptor::CPPTYPE_DOUBLE};
  each_field(*weir::v1::Config::descriptor(), [&](const FieldDescriptor& field) {
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    EXPECT_NE(is_message, readable.contains(field.cpp_type())) << field.full_name();
    EXPECT_EQ(field.is_repeated() && !is_message, false) << field.full_name();
  });
}

// Fails when a default lies outside its own range.
TEST(FieldRules, EveryDefaultIsAcceptable) {
  weir::v1::Config config;
  config.add_services()->add_backends();
  config.add_models();
  fill_defaults(config);
  each_field(*weir::v1::Config::descriptor(), [](const FieldDescriptor& field) {
    const auto* const rule = find_rule(field);
    if (rule == nullptr || rule->default_value.empty() || depends_on_cpus(*rule)) return;
    const auto message = std::unique_ptr<google::protobuf::Message>(
        google::protobuf::MessageFactory::generated_factory()
            ->GetPrototype(field.containing_type())
            ->New());
    EXPECT_EQ(set_scalar(*message, field, std::string(rule->default_value), false), std::nullopt)
        << field.full_name();
  });
}

TEST(FieldRules, TheReferenceHasARowForEveryField) {
  each_field(*weir::v1::Config::descriptor(), [](const FieldDescriptor& field) {
    EXPECT_NE(readme_row(field), "") << field.full_name();
  });
}

TEST(FieldRules, TheReferenceGivesTheRangesAndDefaultsOfTheTable) {
  each_field(*weir::v1::Config::descriptor(), [](const FieldDescriptor& field) {
    const auto* const rule = find_rule(field);
    if (rule == nullptr) return;
    const std::string row = readme_row(field);
    if (rule->range) {
      EXPECT_NE(row.find(to_string(*rule->range)), std::string::npos) << row;
    }
    if (!rule->default_value.empty() && !depends_on_cpus(*rule)) {
      EXPECT_NE(row.find("| `" + std::string(rule->default_value) + "` |"), std::string::npos)
          << row;
    }
  });
}

TEST(FieldRules, TheReferenceNamesEveryEnumValue) {
  const std::string text = readme();
  each_field(*weir::v1::Config::descriptor(), [&](const FieldDescriptor& field) {
    if (field.enum_type() == nullptr) return;
    for (int i = 0; i < field.enum_type()->value_count(); ++i) {
      std::string name = field.enum_type()->value(i)->name();
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      EXPECT_NE(text.find("`" + name + "`"), std::string::npos) << name;
    }
  });
  for (const auto* const name : {"`trace`", "`error`"}) {
    EXPECT_NE(text.find(name), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace weir::config
