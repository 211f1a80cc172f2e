// SPDX-License-Identifier: Apache-2.0
#include "agent/upstream/sla_options.h"

#include <chrono>

namespace weir::upstream {

SlaOptions sla_options(const weir::v1::SlaPolicy& policy) {
  using std::chrono::milliseconds;
  SlaOptions options;
  options.route = policy.route();
  options.budget_percent = policy.retry().budget_percent();
  if (const auto& retry = policy.retry(); retry.enabled()) {
    options.retry = {retry.max_attempts(), milliseconds(retry.backoff_ms())};
  }
  if (const auto& adaptive = policy.adaptive_retry(); adaptive.enabled()) {
    options.adaptive_retry = {adaptive.max_attempts(), milliseconds(adaptive.after_ms())};
  }
  if (const auto& fast_fail = policy.fast_fail(); fast_fail.enabled()) {
    options.fast_fail = {fast_fail.min_health(), fast_fail.backup_model()};
  }
  if (const auto& degrade = policy.degrade(); degrade.enabled()) {
    options.degrade = {degrade.cache_entries(), degrade.cache_bytes(), degrade.default_text()};
  }
  return options;
}

}  // namespace weir::upstream
