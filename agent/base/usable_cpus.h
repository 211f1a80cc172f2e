// SPDX-License-Identifier: Apache-2.0
//
// How many CPUs this process may use: those of its affinity mask, and no more than the CPU time
// that its control groups grant it. Whoever starts a thread for each CPU goes by this: a thread
// more than the quota pays for has the kernel stop all of them at the end of each period.
//
// Thread-safe: functions over the file system. `root` is "" or a folder with fake /proc and
// /sys/fs/cgroup below it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace weir {

/// The least CPU time, in CPUs, that the process's control group or one above it may use: cpu.max
/// of version 2, cpu.cfs_quota_us of version 1. Unset: no bound.
[[nodiscard]] std::optional<double> cpu_quota(const std::string& root = "");

/// Whole CPUs of a quota, at least one, and no more than the mask has.
[[nodiscard]] std::uint32_t whole_cpus(std::uint32_t in_mask, std::optional<double> quota);

/// Both, of this process, now; at least 1.
[[nodiscard]] std::uint32_t usable_cpus();

}  // namespace weir
