// SPDX-License-Identifier: Apache-2.0
//
// Where links and maps stay when the agent is gone:
//
//   <pin_root>/v<ABI>/<map>           one file per map of abi.h
//   <pin_root>/v<ABI>/links/<program> one file per attached program
//   <pin_root>/v<ABI>/listen/...      see listen_steering.h
//   <pin_root>/v<ABI>/next/<map>      while an upgrade goes on, see upgrade.h
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
  /// takes the lock, and those of older versions that are pinned there. kUnsupported when a newer
  /// version is, kAlreadyExists when another agent holds a lock for longer than `wait`.
  static Result<PinDir> prepare(const std::string& pin_root,
                                std::chrono::milliseconds wait = std::chrono::milliseconds(0));

  [[nodiscard]] std::string map_path(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] std::string link_path(const std::string& program) const {
    return path_ + "/links/" + program;
  }
  /// Whether nothing is pinned for this version.
  [[nodiscard]] bool is_empty() const;
  /// Every pinned link, of older versions too: those of this one first, sorted.
  [[nodiscard]] std::vector<std::string> link_paths() const;
  [[nodiscard]] const std::string& path() const { return path_; }
  /// New maps while they are made, and until they take the places of the old ones; see upgrade.h.
  [[nodiscard]] std::string staging_path() const { return path_ + "/staging"; }
  [[nodiscard]] std::string next_path() const { return path_ + "/next"; }
  /// The directories of older versions, newest first.
  [[nodiscard]] std::vector<std::string> former_paths() const;

  /// Removes everything pinned here, links first, and pin_root too if nothing else is in it.
  /// Returns how many links there were.
  Result<std::size_t> remove();
  /// Removes what older versions have pinned.
  Status remove_former();

 private:
  struct Former {
    std::string path;
    Fd lock;
  };

  std::string pin_root_;
  std::string path_;
  Fd lock_;
  std::vector<Former> former_;
};

/// "<pin_root>/v<ABI>" of this build.
[[nodiscard]] std::string version_path(const std::string& pin_root);

/// The version directories below `pin_root` that hold pins, sorted.
[[nodiscard]] std::vector<std::string> pinned_versions(const std::string& pin_root);

/// Whether an agent holds the lock of that directory.
[[nodiscard]] bool agent_is_alive(const std::string& version_dir);

/// The same removal without owning the directory. kAlreadyExists while an agent is alive on it.
Result<std::size_t> remove_pins(const std::string& pin_root, const std::string& version_dir);

}  // namespace weir::kernel
