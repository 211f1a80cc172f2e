// SPDX-License-Identifier: Apache-2.0
//
// What the kernel says about memory: how much this process may still take, and how much its cgroup
// suffers for want of it (pressure stall information).
//
// Thread-safe: functions over the file system. `root` is "" or a folder with fake /proc and
// /sys/fs/cgroup below it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "agent/base/result.h"

namespace weir::admit {

struct MemoryLeft {
  std::uint64_t bytes = 0;
  std::string source;  ///< the file that says so
};

/// The least of what the process's cgroup v2 and each cgroup above it have left of memory.max, and
/// of what the machine has left. kIo when not even /proc/meminfo can be read.
Result<MemoryLeft> memory_left(const std::string& root = "");

/// The least memory.max of the process's cgroup v2 and each cgroup above it, or else all memory of
/// the machine, whatever of it is in use. kIo when not even /proc/meminfo can be read.
Result<MemoryLeft> memory_limit(const std::string& root = "");

/// memory.pressure of the process's cgroup; where it has none that of the machine; unset when the
/// kernel keeps none.
[[nodiscard]] std::optional<std::string> pressure_file(const std::string& root = "");

/// Share of the last ten seconds in which some task waited for memory, in percent; unset when
/// `text` is not that file's.
[[nodiscard]] std::optional<double> some_avg10(std::string_view text);

/// The same of a file; unset also when it cannot be read.
[[nodiscard]] std::optional<double> read_some_avg10(const std::string& file);

}  // namespace weir::admit
