// SPDX-License-Identifier: Apache-2.0
//
// Whether a path still names the file that it named before.
//
// Thread-safe: values and a free function.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>

namespace weir::model {

struct FileStamp {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t bytes = 0;
  std::int64_t modified_ns = 0;
  [[nodiscard]] std::int64_t modified_unix_seconds() const { return modified_ns / 1'000'000'000; }
  bool operator==(const FileStamp&) const = default;
};

/// Unset when there is no such regular file, or it may not be looked at.
[[nodiscard]] inline std::optional<FileStamp> file_stamp(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) return std::nullopt;
  return FileStamp{found.st_dev, found.st_ino, found.st_size,
                   std::int64_t{found.st_mtim.tv_sec} * 1'000'000'000 + found.st_mtim.tv_nsec};
}

}  // namespace weir::model
