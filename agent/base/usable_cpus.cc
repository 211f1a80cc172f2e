// SPDX-License-Identifier: Apache-2.0
#include "agent/base/usable_cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <thread>

#include "agent/base/own_cgroup.h"

namespace weir {
namespace {

std::optional<double> number_in(const std::filesystem::path& file) {
  std::ifstream text(file);
  double number = 0;
  return text >> number ? std::optional(number) : std::nullopt;
}

/// "150000 100000", microseconds in each period; "max 100000": no bound. The top has no such file.
std::optional<double> quota_of(const std::filesystem::path& group) {
  std::ifstream text(group / "cpu.max");
  double quota_us = 0;
  double period_us = 0;
  if (!(text >> quota_us >> period_us) || quota_us <= 0 || period_us <= 0) return std::nullopt;
  return quota_us / period_us;
}

/// Version 1; -1: no bound.
std::optional<double> quota_of_v1(const std::filesystem::path& group) {
  const auto quota_us = number_in(group / "cpu.cfs_quota_us");
  const auto period_us = number_in(group / "cpu.cfs_period_us");
  if (!quota_us || !period_us || *quota_us <= 0 || *period_us <= 0) return std::nullopt;
  return *quota_us / *period_us;
}

std::uint32_t in_mask() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) {
    return static_cast<std::uint32_t>(CPU_COUNT(&set));
  }
  return std::max(1U, std::thread::hardware_concurrency());  // more CPUs than the set has room for
}

}  // namespace

std::optional<double> cpu_quota(const std::string& root) {
  std::optional<double> least;
  const auto look_upwards = [&](const std::optional<CgroupPath>& from, auto quota_in) {
    if (!from) return;
    for (const auto& group : from->upwards()) {
      const std::optional<double> quota = quota_in(group);
      if (quota && (!least || *quota < *least)) least = quota;
    }
  };
  look_upwards(own_cgroup(root), quota_of);
  look_upwards(own_cgroup_v1("cpu", root), quota_of_v1);
  return least;
}

std::uint32_t whole_cpus(std::uint32_t in_mask, std::optional<double> quota) {
  const std::uint32_t cpus = std::max(1U, in_mask);
  if (!quota || *quota >= cpus) return cpus;
  return std::max(1U, static_cast<std::uint32_t>(std::floor(*quota)));
}

std::uint32_t usable_cpus() { return whole_cpus(in_mask(), cpu_quota()); }

}  // namespace weir
