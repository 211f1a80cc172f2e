// SPDX-License-Identifier: Apache-2.0
//
// A directory of the cgroup v2 hierarchy.
//
// Thread-safety: one thread; move-only.
#pragma once

#include <cstdint>
#include <string>

#include "agent/base/result.h"
#include "agent/kernel/fd.h"

namespace weir::kernel {

struct Cgroup {
  std::string path;
  Fd fd;
  std::uint64_t id = 0;
};

/// Empty path: the root of the cgroup v2 mount. kInvalidArgument when it is no cgroup v2.
Result<Cgroup> open_cgroup(const std::string& path);

}  // namespace weir::kernel
