// SPDX-License-Identifier: Apache-2.0
#include "agent/admit/memory_limit.h"

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "agent/base/own_cgroup.h"

namespace weir::admit {
namespace {

std::optional<std::string> read_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  if (text.str().empty()) return std::nullopt;
  return text.str();
}

std::optional<std::uint64_t> number_at(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  std::uint64_t number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (status != std::errc{} || end == text.data()) return std::nullopt;
  return number;
}

/// Unset for "max", and where there is no such file: the root cgroup has none.
std::optional<std::uint64_t> read_number(const std::string& path) {
  const auto text = read_file(path);
  return text.has_value() ? number_at(*text) : std::nullopt;
}

/// `field` as in "MemAvailable:".
std::optional<std::uint64_t> bytes_of(std::string_view meminfo, std::string_view field) {
  const auto at = meminfo.find(field);
  if (at == std::string_view::npos) return std::nullopt;
  const auto kib = number_at(meminfo.substr(at + field.size()));
  if (!kib.has_value()) return std::nullopt;
  return *kib * 1024;
}

}  // namespace

Result<MemoryLeft> memory_left(const std::string& root) {
  const std::string meminfo = root + "/proc/meminfo";
  const auto text = read_file(meminfo);
  const auto available = text.has_value() ? bytes_of(*text, "MemAvailable:") : std::nullopt;
  if (!available.has_value()) return make_error(Code::kIo, "no MemAvailable in " + meminfo);
  MemoryLeft least{*available, meminfo};
  const auto cgroup = own_cgroup(root);
  if (!cgroup.has_value()) return least;
  for (const auto& at : cgroup->upwards()) {
    const std::string file = (at / "memory.max").string();
    const auto limit = read_number(file);
    const auto used = read_number((at / "memory.current").string());
    if (limit.has_value() && used.has_value()) {
      const std::uint64_t left = *limit > *used ? *limit - *used : 0;
      if (left < least.bytes) least = {left, file};
    }
  }
  return least;
}

Result<MemoryLeft> memory_limit(const std::string& root) {
  const std::string meminfo = root + "/proc/meminfo";
  const auto text = read_file(meminfo);
  const auto total = text.has_value() ? bytes_of(*text, "MemTotal:") : std::nullopt;
  if (!total.has_value()) return make_error(Code::kIo, "no MemTotal in " + meminfo);
  MemoryLeft least{*total, meminfo};
  const auto cgroup = own_cgroup(root);
  if (!cgroup.has_value()) return least;
  for (const auto& at : cgroup->upwards()) {
    const std::string file = (at / "memory.max").string();
    const auto limit = read_number(file);
    if (limit.has_value() && *limit < least.bytes) least = {*limit, file};
  }
  return least;
}

std::optional<std::string> pressure_file(const std::string& root) {
  if (const auto cgroup = own_cgroup(root)) {
    const std::string own = (cgroup->own / "memory.pressure").string();
    if (read_some_avg10(own).has_value()) return own;
  }
  const std::string machine = root + "/proc/pressure/memory";
  if (read_some_avg10(machine).has_value()) return machine;
  return std::nullopt;
}

std::optional<double> some_avg10(std::string_view text) {
  constexpr std::string_view kStart = "some avg10=";  // Documentation/accounting/psi.rst
  if (!text.starts_with(kStart)) return std::nullopt;
  text.remove_prefix(kStart.size());
  double percent = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), percent);
  if (status != std::errc{} || end == text.data()) return std::nullopt;
  return percent;
}

std::optional<double> read_some_avg10(const std::string& file) {
  const auto text = read_file(file);
  return text.has_value() ? some_avg10(*text) : std::nullopt;
}

}  // namespace weir::admit
