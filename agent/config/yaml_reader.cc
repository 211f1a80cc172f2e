// SPDX-License-Identifier: Apache-2.0
#include "agent/config/yaml_reader.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

#include "agent/config/field_rules.h"

namespace weir::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

Location location(const YAML::Mark& mark) {
  return mark.is_null() ? Location{} : Location{mark.line + 1, mark.column + 1};
}

std::string describe(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map:
      return "a mapping";
    case YAML::NodeType::Sequence:
      return "a list";
    case YAML::NodeType::Scalar:
      return in_quotes(node.Scalar());
    case YAML::NodeType::Null:
    case YAML::NodeType::Undefined:
      break;
  }
  return "nothing";
}

std::vector<std::string> field_names(const Descriptor& descriptor) {
  std::vector<std::string> names;
  for (int i = 0; i < descriptor.field_count(); ++i) names.push_back(descriptor.field(i)->name());
  return names;
}

class Reader {
 public:
  Reader(SourceMap& sources, Problems& problems) : sources_(sources), problems_(problems) {}

  void read_message(const YAML::Node& node, const std::string& path, Message& message) {
    if (!node.IsMap()) {
      problems_.add(location(node.Mark()), path,
                    fmt::format("expected fields (name: value), got {}", describe(node)));
      return;
    }
    std::map<std::string, Location> seen;
    for (const auto& entry : node) {
      const Location at = location(entry.first.Mark());
      if (!entry.first.IsScalar()) {
        problems_.add(at, path,
                      fmt::format("expected a field name, got {}", describe(entry.first)));
        continue;
      }
      const std::string& name = entry.first.Scalar();
      const Descriptor& descriptor = *message.GetDescriptor();
      const FieldDescriptor* const field = descriptor.FindFieldByName(name);
      if (field == nullptr) {
        problems_.add(at, path,
                      fmt::format("unknown field {}{}", in_quotes(name),
                                  did_you_mean(name, field_names(descriptor))));
        continue;
      }
      const std::string field_path = path.empty() ? name : path + "." + name;
      if (const auto [first, fresh] = seen.emplace(name, at); !fresh) {
        problems_.add(at, field_path,
                      fmt::format("is given twice, first in line {}", first->second.line));
        continue;
      }
      sources_.set(field_path, entry.second.IsNull() ? at : location(entry.second.Mark()));
      read_field(entry.second, field_path, *field, message);
    }
  }

 private:
  void read_field(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                  Message& message) {
    const auto& reflection = *message.GetReflection();
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (field.is_repeated()) {
      read_list(node, path, field, message);
    } else if (is_message) {
      if (!node.IsNull()) read_message(node, path, *reflection.MutableMessage(&message, &field));
    } else if (!node.IsScalar()) {
      problems_.add(sources_.find(path), path,
                    fmt::format("expected a single value, got {}", describe(node)));
    } else if (auto problem =
                   set_scalar(message, field, node.Scalar(), /*was_quoted=*/node.Tag() == "!")) {
      problems_.add(location(node.Mark()), path, std::move(*problem));
    }
  }

  void read_list(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                 Message& message) {
    if (node.IsNull()) return;
    if (!node.IsSequence()) {
      problems_.add(location(node.Mark()), path,
                    fmt::format("expected a list (- item), got {}", describe(node)));
      return;
    }
    // Checked before anything is read: aliases let a short file name very long lists.
    const FieldRule* const rule = find_rule(field);
    if (rule != nullptr && rule->range && static_cast<double>(node.size()) > rule->range->max) {
      problems_.add(
          location(node.Mark()), path,
          fmt::format("{} items are out of range ({})", node.size(), to_string(*rule->range)));
      return;
    }
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      problems_.add(location(node.Mark()), path, "lists of plain values cannot be configured");
      return;
    }
    std::size_t index = 0;
    for (const auto& item : node) {
      const std::string item_path = fmt::format("{}[{}]", path, index++);
      sources_.set(item_path, location(item.Mark()));
      read_message(item, item_path, *message.GetReflection()->AddMessage(&message, &field));
    }
  }

  SourceMap& sources_;
  Problems& problems_;
};

/// Remembers where a document begins and drops its content.
class DocumentStart final : public YAML::EventHandler {
 public:
  std::optional<Location> at;

  void OnDocumentStart(const YAML::Mark& mark) override { at = location(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

/// Where the second document of the text begins, if there is one. YAML::LoadAll() would not do: on
/// some malformed texts it finds documents without end.
std::optional<Location> second_document(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStart first;
  DocumentStart second;
  if (parser.HandleNextDocument(first)) parser.HandleNextDocument(second);
  return second.at;
}

/// yaml-cpp's words, and before them what it does not say of a tab.
std::string syntax_problem(const std::string& text, const YAML::Exception& error) {
  std::istringstream lines(text);
  std::string line;
  for (int i = 0; i <= error.mark.line && std::getline(lines, line); ++i) continue;
  const std::string indentation = line.substr(0, line.find_first_not_of(" \t"));
  if (error.mark.is_null() || indentation.find('\t') == std::string::npos) return error.msg;
  return "a tab in the indentation, where YAML takes blanks only (" + error.msg + ")";
}

}  // namespace

void read_yaml(const std::string& text, Message& message, SourceMap& sources, Problems& problems) {
  if (const auto at = text.find('\0'); at != std::string::npos) {
    const auto line =
        std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    problems.add({static_cast<int>(line) + 1, 1}, "", "a zero byte: this is no text file");
    return;
  }
  try {
    if (const auto second = second_document(text)) {
      problems.add(*second, "", "a second document begins here; one is allowed");
      return;
    }
    const YAML::Node document = YAML::Load(text);
    if (!document.IsNull()) Reader(sources, problems).read_message(document, "", message);
  } catch (const YAML::Exception& error) {
    problems.add(location(error.mark), "", syntax_problem(text, error));
  } catch (const std::exception& error) {
    problems.add({}, "", error.what());
  }
}

}  // namespace weir::config
