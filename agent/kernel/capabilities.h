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
  std::string detail;  ///< what Weir does with it; what is used instead or what its absence costs
  std::string since = {};  ///< first Linux that has it, "5.8"; empty: no matter of versions
};

using Capabilities = std::vector<Capability>;

class KernelProbe;

/// Probes the running kernel by loading tiny programs of each type. Needs CAP_BPF.
Result<Capabilities> probe_capabilities();
Result<Capabilities> probe_capabilities(const KernelProbe& kernel);

/// Path of the cgroup v2 mount, found by its filesystem magic among the mounts of this process.
Result<std::string> find_cgroup2_root();

}  // namespace weir::kernel
