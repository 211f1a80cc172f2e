// SPDX-License-Identifier: Apache-2.0
#include "agent/config/problems.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <tuple>

namespace weir::config {
namespace {

constexpr std::size_t kQuotedBytes = 60;
/// Longer texts are no misspelt field name; the bound also keeps the distance cheap.
constexpr std::size_t kMisspeltBytes = 64;

/// Levenshtein distance.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0U);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

Location SourceMap::find(std::string path) const {
  while (!path.empty()) {
    if (const auto found = locations_.find(path); found != locations_.end()) return found->second;
    const auto cut = path.find_last_of(".[");
    path.resize(cut == std::string::npos ? 0 : cut);
  }
  return {};
}

void Problems::add(Location at, std::string path, std::string text) {
  problems_.push_back({at, std::move(path), std::move(text)});
}

Error Problems::to_error(std::string_view file) const {
  auto sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Problem& a, const Problem& b) {
    return std::tie(a.at.line, a.at.column) < std::tie(b.at.line, b.at.column);
  });
  std::string message;
  for (const Problem& problem : sorted) {
    if (!message.empty()) message += '\n';
    message += fmt::format("{}:{}:{}: ", file, problem.at.line, problem.at.column);
    if (!problem.path.empty()) message += problem.path + ": ";
    message += problem.text;
  }
  return make_error(Code::kInvalidArgument, std::move(message));
}

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, kQuotedBytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (text.size() > kQuotedBytes) out += "...";
  return out + "\"";
}

std::string did_you_mean(std::string_view text, const std::vector<std::string>& candidates) {
  if (text.empty() || text.size() > kMisspeltBytes) return {};
  const std::string* nearest = nullptr;
  std::size_t nearest_distance = std::max<std::size_t>(2, text.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(text, candidate);
    if (distance < nearest_distance) {
      nearest = &candidate;
      nearest_distance = distance;
    }
  }
  return nearest == nullptr ? std::string() : fmt::format(", did you mean \"{}\"?", *nearest);
}

}  // namespace weir::config
