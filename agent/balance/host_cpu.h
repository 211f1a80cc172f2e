// SPDX-License-Identifier: Apache-2.0
//
// How busy the CPUs of this host are, from /proc/stat.
//
// Thread-safety: belongs to one thread, the control thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace weir::balance {

class HostCpu {
 public:
  /// `proc` is the root of the proc file system; tests give a folder of their own.
  explicit HostCpu(std::filesystem::path proc = "/proc") : proc_(std::move(proc)) {}

  /// Percent of the time since the last call that the CPUs did not idle, 0..100. Unset at the first
  /// call, when no time passed, or when /proc/stat cannot be read: then nothing is known.
  [[nodiscard]] std::optional<double> sample_percent();

 private:
  struct Ticks {
    std::uint64_t busy = 0;
    std::uint64_t total = 0;
  };
  [[nodiscard]] std::optional<Ticks> read() const;

  const std::filesystem::path proc_;
  std::optional<Ticks> last_;
};

}  // namespace weir::balance
