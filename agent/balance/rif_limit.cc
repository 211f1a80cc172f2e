// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/rif_limit.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>

namespace weir::balance {
namespace {

constexpr std::size_t kSmallPool = 4;                ///< backends; below, the quantile degenerates
constexpr double kHotQuantile = 0.8408964152537145;  // 2^-0.25
constexpr double kMedianRatio = 1.25;
constexpr double kLeastLimit = 2;

/// Quantile `q` of sorted values, between its neighbours in proportion.
double interpolated(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], at - static_cast<double>(below));
}

}  // namespace

double rif_limit(std::vector<double> loads) {
  if (loads.empty()) return 0;
  std::sort(loads.begin(), loads.end());
  if (loads.size() >= kSmallPool) return interpolated(loads, kHotQuantile);
  return std::max(kLeastLimit, kMedianRatio * interpolated(loads, 0.5));
}

std::vector<kernel::PoolLimit> rif_limits(const std::vector<kernel::BackendReading>& backends) {
  struct Loads {
    std::vector<double> usable;
    std::vector<double> all;
  };
  std::map<std::uint32_t, Loads> pools;
  for (const auto& backend : backends) {
    if (backend.state != WEIR_BE_ACTIVE) continue;
    Loads& loads = pools[backend.pool];
    const double load = backend.load();
    loads.all.push_back(load);
    if (backend.breaker.state != WEIR_BREAKER_OPEN) loads.usable.push_back(load);
  }
  std::vector<kernel::PoolLimit> limits;
  for (auto& [pool, loads] : pools) {
    auto& counted = loads.usable.empty() ? loads.all : loads.usable;
    limits.push_back({pool, rif_limit(std::move(counted))});
  }
  return limits;
}

}  // namespace weir::balance
