// SPDX-License-Identifier: Apache-2.0
//
// What this kernel offers and what Weir makes of it: the table printed at start and by
// `weir status`.
//
// Thread-safe: values; probe_capabilities() may be called from any thread.
#pragma once

#include <string>
#include <vector>

#include "agent/base/result.h"

namespace weir::kernel {

struct Capability {
  enum class Use { kUsed, kFallback, kMissing };
  std::string name;  ///< "connect4 steering", "request clock: tracepoint", ...
  Use use = Use::kMissing;
  bool required = false;
  std::string detail;  ///< what is used instead, what its absence costs, or how it was found
};

using Capabilities = std::vector<Capability>;

/// Probes the running kernel by loading tiny programs of each type. Needs CAP_BPF.
Result<Capabilities> probe_capabilities();

/// Path of the cgroup v2 mount, found by its filesystem magic among the mounts of this process.
Result<std::string> find_cgroup2_root();

}  // namespace weir::kernel
