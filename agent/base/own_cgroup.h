// SPDX-License-Identifier: Apache-2.0
//
// Where this process stands in the control groups: what limits it is written there, and in each
// group above.
//
// Thread-safe: functions over the file system. `root` is "" or a folder with fake /proc and
// /sys/fs/cgroup below it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

struct CgroupPath {
  std::filesystem::path mount;
  std::filesystem::path own;  ///< below `mount`, or `mount` itself

  /// The process's own group first, the top last.
  [[nodiscard]] std::vector<std::filesystem::path> upwards() const;
};

/// In the hierarchy of version 2. Unset where there is none.
[[nodiscard]] std::optional<CgroupPath> own_cgroup(const std::string& root = "");

/// In the hierarchy of version 1 that has this controller, "cpu". Unset where there is none.
[[nodiscard]] std::optional<CgroupPath> own_cgroup_v1(std::string_view controller,
                                                      const std::string& root = "");

}  // namespace weir
