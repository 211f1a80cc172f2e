// SPDX-License-Identifier: Apache-2.0
//
// What is wrong with a configuration file, and where: the pieces from which the loader builds its
// error message.
//
// Thread-safe: values without shared state.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "agent/base/result.h"

namespace weir::config {

/// A place in the file; lines and columns count from 1, as editors do.
struct Location {
  int line = 1;
  int column = 1;
};

/// Where each field of the file stands, by its path ("services[0].backends[2].weight").
class SourceMap {
 public:
  void set(const std::string& path, Location at) { locations_[path] = at; }
  /// The place of the field, or of the nearest enclosing one when the file does not name it.
  [[nodiscard]] Location find(std::string path) const;

 private:
  std::map<std::string, Location> locations_;
};

/// Collects every problem of one file.
class Problems {
 public:
  /// `path` may be empty: the problem concerns the file as a whole.
  void add(Location at, std::string path, std::string text);
  [[nodiscard]] bool empty() const { return problems_.empty(); }
  /// One line per problem, in the order of the file: "FILE:LINE:COLUMN: PATH: TEXT".
  [[nodiscard]] Error to_error(std::string_view file) const;

 private:
  struct Problem {
    Location at;
    std::string path;
    std::string text;
  };
  std::vector<Problem> problems_;
};

/// The text in double quotes, cut at 60 bytes and with control bytes escaped, safe for a terminal.
[[nodiscard]] std::string in_quotes(std::string_view text);

/// ", did you mean \"NAME\"?" for the candidate nearest in spelling; empty when none is near.
[[nodiscard]] std::string did_you_mean(std::string_view text,
                                       const std::vector<std::string>& candidates);

}  // namespace weir::config
