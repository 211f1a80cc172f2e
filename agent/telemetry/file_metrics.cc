// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/file_metrics.h"

#include "agent/telemetry/catalogue.h"

namespace weir::telemetry {

void render_file_metrics(PrometheusText& out, const model::VettingReading& reading) {
  out.family(kCatalogue[kFileCheckRefusals]);
  out.sample({}, reading.refused_by_check);
  out.family(kCatalogue[kFileTrials]);
  out.sample({{"outcome", "passed"}}, reading.passed);
  out.sample({{"outcome", "refused"}}, reading.refused);
  out.sample({{"outcome", "died"}}, reading.died);
  out.sample({{"outcome", "cut"}}, reading.cut);
  out.sample({{"outcome", "unavailable"}}, reading.unavailable);
  out.sample({{"outcome", "remembered"}}, reading.remembered);
}

}  // namespace weir::telemetry
