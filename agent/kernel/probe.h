// SPDX-License-Identifier: Apache-2.0
//
// Single questions to the running kernel, most of them answered by loading a program of two
// instructions. Nothing is attached.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "agent/kernel/capabilities.h"
#include "weir/abi.h"

namespace weir::kernel {

/// What Weir asks of a kernel, in the order of the capability table.
enum class Feature : std::size_t {
  kCgroup2,
  kBtf,
  kReadKernelTypes,
  kConnect4,
  kConnect6,
  kGetpeername4,
  kGetpeername6,
  kSockRelease,
  kSockops,
  kCgroupLink,
  kSocketStorage,
  kRingBuffer,
  kTcpIterator,
  kStorageIterator,
  kSetRetval,
  kTracepoints,
  kTracepointPayload,
  kCgroupSkb,
  kSockDestroy,
  kWatchFromIterator,
  kReuseport,
  kReuseportMigrate,
  kSyscallProgram,
  kLockdown,
};

/// The seam for tests of what Weir does without something.
class KernelProbe {
 public:
  struct Finding {
    bool there = false;
    std::string how;  ///< what was seen; may be empty
  };
  virtual ~KernelProbe() = default;
  [[nodiscard]] virtual Finding find(Feature feature) const = 0;
  [[nodiscard]] bool has(Feature feature) const { return find(feature).there; }
};

[[nodiscard]] const KernelProbe& running_kernel();

[[nodiscard]] bool has_request_clock(weir_request_clock clock,
                                     const KernelProbe& kernel = running_kernel());

/// The capability table; `clock` is the request clock in use, unset: the best there is.
[[nodiscard]] Capabilities describe_kernel(std::optional<weir_request_clock> clock,
                                           const KernelProbe& kernel = running_kernel());

}  // namespace weir::kernel
