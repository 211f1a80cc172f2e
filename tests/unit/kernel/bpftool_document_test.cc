// SPDX-License-Identifier: Apache-2.0
//
// deploy/BPFTOOL.md says what the build has: every map, every program, every field of every struct.
#include <bpf/libbpf.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "weir.skel.h"
#include "weir_listen.skel.h"

namespace weir::kernel {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path << ": run the tests from the top of the tree";
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// What stands below each heading, by the first word in backquotes of the heading.
std::map<std::string, std::string> sections() {
  std::map<std::string, std::string> found;
  std::istringstream document(read_file("deploy/BPFTOOL.md"));
  const std::regex heading(R"(^#+ `([a-z0-9_]+)`.*)");
  std::string name;
  std::smatch match;
  for (std::string line; std::getline(document, line);) {
    if (std::regex_match(line, match, heading)) {
      name = match[1];
    } else if (line.starts_with("#")) {
      name.clear();
    } else if (!name.empty()) {
      found[name] += line + "\n";
    }
  }
  return found;
}

/// The first cells of the rows of tables: "| `field` | ...".
std::set<std::string> rows(const std::string& text) {
  std::set<std::string> found;
  const std::regex row(R"(\| `([A-Za-z0-9_]+)` \|)");
  std::istringstream lines(text);
  std::smatch match;
  for (std::string line; std::getline(lines, line);) {
    if (std::regex_search(line, match, row, std::regex_constants::match_continuous)) {
      found.insert(match[1]);
    }
  }
  return found;
}

/// The contracts with user space, without their comments.
std::string contracts() {
  std::string text = read_file("include/weir/abi.h") + read_file("include/weir/listen_abi.h");
  for (std::size_t begin; (begin = text.find("/*")) != std::string::npos;) {
    text.erase(begin, text.find("*/", begin) + 2 - begin);
  }
  return text;
}

/// What stands in braces after "\n<keyword> weir_x", by name.
std::map<std::string, std::string> bodies(const std::string& keyword) {
  const std::string text = contracts(), opening = "\n" + keyword + " weir_";
  std::map<std::string, std::string> found;
  for (std::size_t at = text.find(opening); at != std::string::npos;
       at = text.find(opening, at + 1)) {
    const std::size_t name = at + keyword.size() + 2, brace = text.find(" {", name);
    const std::size_t end = text.find("};", brace);
    found[text.substr(name, brace - name)] = text.substr(brace + 2, end - brace - 2);
  }
  return found;
}

/// Fields by struct, without the padding.
std::map<std::string, std::set<std::string>> structs() {
  std::map<std::string, std::set<std::string>> found;
  const std::regex member(R"(^\s*(?:struct )?\w+ (\w+)(\[\w+\])?( __attribute__.*)?;\s*$)");
  for (const auto& [name, body] : bodies("struct")) {
    std::istringstream lines(body);
    std::smatch match;
    for (std::string line; std::getline(lines, line);) {
      if (line.find_first_not_of(' ') == std::string::npos) continue;
      EXPECT_TRUE(std::regex_match(line, match, member)) << name << ": " << line;
      if (!match.str(1).starts_with("pad")) found[name].insert(match[1]);
    }
  }
  return found;
}

std::set<std::string> enumerators() {
  std::set<std::string> found;
  const std::regex name(R"(WEIR_\w+)");
  for (const auto& [ignored, body] : bodies("enum")) {
    for (std::sregex_iterator it(body.begin(), body.end(), name), end; it != end; ++it) {
      found.insert(it->str());
    }
  }
  return found;
}

struct CloseObject {
  void operator()(bpf_object* object) const { bpf_object__close(object); }
};
using Object = std::unique_ptr<bpf_object, CloseObject>;

/// The objects of the build, not loaded: this needs no privilege.
std::array<Object, 2> objects() {
  std::size_t bytes = 0;
  const void* elf = weir_bpf::elf_bytes(&bytes);
  Object programs(bpf_object__open_mem(elf, bytes, nullptr));
  elf = weir_listen_bpf::elf_bytes(&bytes);
  Object listen(bpf_object__open_mem(elf, bytes, nullptr));
  EXPECT_TRUE(programs && listen);
  return {std::move(programs), std::move(listen)};
}

TEST(BpftoolDocument, NamesEveryMap) {
  const auto documented = sections();
  for (const Object& object : objects()) {
    ASSERT_TRUE(object);
    const bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object.get()) {
      const std::string name = bpf_map__name(map);
      if (!name.starts_with("weir_")) continue;  // .rodata and the like
      EXPECT_TRUE(documented.contains(name)) << "no heading for the map " << name;
    }
  }
}

TEST(BpftoolDocument, NamesEveryProgram) {
  const auto documented = sections();
  ASSERT_TRUE(documented.contains("links"));
  const std::set<std::string> rows_of_programs = rows(documented.at("links"));
  std::set<std::string> programs;
  for (const Object& object : objects()) {
    ASSERT_TRUE(object);
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object.get()) {
      programs.insert(bpf_program__name(program));
    }
  }
  EXPECT_EQ(rows_of_programs, programs);
}

TEST(BpftoolDocument, NamesEveryFieldOfEveryStructAndNoOther) {
  const auto documented = sections();
  const auto in_code = structs();
  ASSERT_GT(in_code.size(), 15U);
  for (const auto& [name, fields] : in_code) {
    const auto section = documented.find(name);
    ASSERT_NE(section, documented.end()) << "no heading for struct " << name;
    EXPECT_EQ(rows(section->second), fields) << name;
  }
}

TEST(BpftoolDocument, NamesEveryEnumerator) {
  const std::string document = read_file("deploy/BPFTOOL.md");
  std::set<std::string> words;
  const std::regex word(R"(\bWEIR_\w+)");
  for (std::sregex_iterator it(document.begin(), document.end(), word), end; it != end; ++it) {
    words.insert(it->str());
  }
  for (const std::string& name : enumerators()) {
    if (name.ends_with("_COUNT") || name.ends_with("_KINDS")) continue;
    EXPECT_TRUE(words.contains(name)) << name;
  }
}

}  // namespace
}  // namespace weir::kernel
