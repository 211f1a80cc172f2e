// SPDX-License-Identifier: Apache-2.0
#include "agent/base/own_cgroup.h"

#include <fstream>
#include <iterator>
#include <sstream>

namespace weir {
namespace {

std::optional<std::string> read_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) return std::nullopt;
  return text;
}

/// Whether `list`, as in "rw,cpu,cpuacct", has `word` in it.
bool has_word(std::string_view list, std::string_view word) {
  while (true) {
    const auto comma = list.find(',');
    if (list.substr(0, comma) == word) return true;
    if (comma == std::string_view::npos) return false;
    list.remove_prefix(comma + 1);
  }
}

/// Of the first mount of `type` with `option`, any if that is empty; see proc_mounts(5).
std::optional<std::string> mount_of(const std::string& root, std::string_view type,
                                    std::string_view option) {
  const auto mounts = read_file(root + "/proc/self/mounts");
  if (!mounts) return std::nullopt;
  std::istringstream lines(*mounts);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string device;
    std::string path;
    std::string kind;
    std::string options;
    if (!(words >> device >> path >> kind >> options) || kind != type) continue;
    if (option.empty() || has_word(options, option)) return path;
  }
  return std::nullopt;
}

/// What /proc/self/cgroup says, without its leading slash; see cgroups(7). `controller` empty: of
/// version 2.
std::optional<std::string> path_of(const std::string& root, std::string_view controller) {
  const auto cgroups = read_file(root + "/proc/self/cgroup");
  if (!cgroups) return std::nullopt;
  std::istringstream lines(*cgroups);
  for (std::string line; std::getline(lines, line);) {
    const auto controllers = line.find(':');
    if (controllers == std::string::npos) continue;
    const auto path = line.find(":/", controllers + 1);
    if (path == std::string::npos) continue;
    const std::string_view list =
        std::string_view(line).substr(controllers + 1, path - controllers - 1);
    const bool found = controller.empty() ? line.starts_with("0::") : has_word(list, controller);
    if (found) return line.substr(path + 2);
  }
  return std::nullopt;
}

std::optional<CgroupPath> join(const std::string& root, const std::optional<std::string>& mount,
                               const std::optional<std::string>& below) {
  if (!mount || !below) return std::nullopt;
  const std::filesystem::path top = root + *mount;
  return CgroupPath{top, below->empty() ? top : top / *below};
}

}  // namespace

std::vector<std::filesystem::path> CgroupPath::upwards() const {
  std::vector<std::filesystem::path> all;
  for (std::filesystem::path at = own;; at = at.parent_path()) {
    all.push_back(at);
    if (at == mount || at == at.parent_path()) return all;
  }
}

std::optional<CgroupPath> own_cgroup(const std::string& root) {
  return join(root, mount_of(root, "cgroup2", ""), path_of(root, ""));
}

std::optional<CgroupPath> own_cgroup_v1(std::string_view controller, const std::string& root) {
  return join(root, mount_of(root, "cgroup", controller), path_of(root, controller));
}

}  // namespace weir
