// SPDX-License-Identifier: Apache-2.0
//
// Where links and maps stay when the agent is gone:
//
//   <pin_root>/v<ABI>/<map>           one file per map of abi.h
//   <pin_root>/v<ABI>/links/<program> one file per attached program
//   <pin_root>/v<ABI>/listen/...      see listen_steering.h
//
// An agent holds a lock on the version directory for as long as it lives; the kernel drops it with
// the process, however that ends, and it holds across pid namespaces.
//
// Thread-safety: one thread; move-only.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "agent/base/result.h"
#include "agent/kernel/fd.h"

namespace weir::kernel {

class PinDir {
 public:
  /// Makes the directories of this ABI version, mounting a bpffs first where there is none, and
  /// takes the lock. kUnsupported when another ABI version is pinned there, kAlreadyExists when
  /// another agent holds the lock for longer than `wait`.
  static Result<PinDir> prepare(const std::string& pin_root,
                                std::chrono::milliseconds wait = std::chrono::milliseconds(0));

  [[nodiscard]] std::string map_path(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] std::string link_path(const std::string& program) const {
    return path_ + "/links/" + program;
  }
  /// Names below links/, sorted.
  [[nodiscard]] std::vector<std::string> link_names() const;
  [[nodiscard]] const std::string& path() const { return path_; }

  /// Removes everything pinned here, links first, and pin_root too if nothing else is in it.
  /// Returns how many links there were.
  Result<std::size_t> remove();

 private:
  std::string pin_root_;
  std::string path_;
  Fd lock_;
};

/// Whether an agent of this ABI version holds the lock.
[[nodiscard]] bool agent_is_alive(const std::string& pin_root);

/// "<pin_root>/v<ABI>" of this build.
[[nodiscard]] std::string version_path(const std::string& pin_root);

/// The version directories below `pin_root` that hold pins, sorted.
[[nodiscard]] std::vector<std::string> pinned_versions(const std::string& pin_root);

/// The same removal without owning the directory. kAlreadyExists while an agent is alive on it.
Result<std::size_t> remove_pins(const std::string& pin_root, const std::string& version_dir);

}  // namespace weir::kernel
