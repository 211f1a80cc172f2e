// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/host_cpu.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <numeric>
#include <string>
#include <utility>

namespace weir::balance {

std::optional<double> HostCpu::sample_percent() {
  const auto before = std::exchange(last_, read());
  // Idle and iowait may go back by a tick on real kernels; such a reading says nothing.
  if (!before || !last_ || last_->total <= before->total || last_->busy < before->busy) {
    return std::nullopt;
  }
  const auto busy = static_cast<double>(last_->busy - before->busy);
  const auto total = static_cast<double>(last_->total - before->total);
  return std::min(100.0, 100.0 * busy / total);
}

std::optional<HostCpu::Ticks> HostCpu::read() const {
  // "cpu user nice system idle iowait irq softirq steal ..."; guest time is part of user.
  constexpr std::size_t kFields = 8;
  constexpr std::size_t kIdle = 3;
  constexpr std::size_t kIowait = 4;
  std::ifstream file(proc_ / "stat");
  std::string name;
  std::array<std::uint64_t, kFields> ticks{};
  if (!(file >> name) || name != "cpu") return std::nullopt;
  for (auto& field : ticks) {
    if (!(file >> field)) return std::nullopt;
  }
  const auto total = std::accumulate(ticks.begin(), ticks.end(), std::uint64_t{0});
  return Ticks{total - ticks[kIdle] - ticks[kIowait], total};
}

}  // namespace weir::balance
