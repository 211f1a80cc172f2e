// SPDX-License-Identifier: Apache-2.0
#include "agent/balance/composite.h"

#include <algorithm>
#include <numeric>

namespace weir::balance {
namespace {

std::optional<double> median_ttfb_ms(std::span<const CompositeInput> pool) {
  std::vector<double> known;
  for (const auto& input : pool) {
    if (input.ttfb_ms) known.push_back(*input.ttfb_ms);
  }
  if (known.empty()) return std::nullopt;
  std::sort(known.begin(), known.end());
  const std::size_t upper = known.size() / 2;
  return known.size() % 2 == 1 ? known[upper] : (known[upper - 1] + known[upper]) / 2;
}

}  // namespace

double composite_score(const CompositeInput& input) {
  const double idle = std::max(1 - input.cpu_percent.value_or(0) / 100, kCpuFloorRatio);
  return 100 / (input.ttfb_ms.value_or(0) + 1) * idle / (static_cast<double>(input.active) + 1);
}

std::vector<double> composite_weights(std::span<const CompositeInput> pool) {
  const auto median = median_ttfb_ms(pool);
  std::vector<double> weights;
  for (CompositeInput input : pool) {
    if (!input.ttfb_ms) input.ttfb_ms = median;
    weights.push_back(composite_score(input));
  }
  if (weights.empty()) return weights;
  // The floor applies to what was measured; the base weights are what the operator wants.
  const double floor = kScoreFloorRatio * *std::max_element(weights.begin(), weights.end());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::max(weights[i], floor) * pool[i].base_weight;
  }
  const double mean =
      std::accumulate(weights.begin(), weights.end(), 0.0) / static_cast<double>(weights.size());
  for (double& weight : weights) weight /= mean;
  return weights;
}

}  // namespace weir::balance
