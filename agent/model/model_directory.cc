// SPDX-License-Identifier: Apache-2.0
#include "agent/model/model_directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

namespace weir::model {

namespace {

constexpr std::string_view kExtension = ".gguf";

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

}  // namespace

bool is_model_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestModelName &&
         std::all_of(name.begin(), name.end(), is_name_character);
}

Result<DirectoryScan> scan_model_directory(const std::string& directory) {
  std::error_code error;
  DirectoryScan scan;
  std::filesystem::directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string file = entry->path().filename().string();
    if (!file.ends_with(kExtension)) continue;
    const std::string path = entry->path().string();
    const std::string name = file.substr(0, file.size() - kExtension.size());
    std::error_code kind_error;
    if (!entry->is_regular_file(kind_error)) {
      scan.skipped.push_back({path, "not a regular file"});
    } else if (!is_model_name(name)) {
      scan.skipped.push_back(
          {path, fmt::format("its name without {} is not 1..{} characters of [A-Za-z0-9._-]",
                             kExtension, kLongestModelName)});
    } else {
      scan.models.push_back({name, path});
    }
  }
  if (error) return os_error(error.value(), directory);
  std::sort(scan.models.begin(), scan.models.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  std::sort(scan.skipped.begin(), scan.skipped.end(),
            [](const auto& a, const auto& b) { return a.path < b.path; });
  return scan;
}

}  // namespace weir::model
