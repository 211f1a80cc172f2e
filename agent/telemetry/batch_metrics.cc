// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/batch_metrics.h"

#include <array>

#include "agent/telemetry/catalogue.h"

namespace weir::telemetry {

using model::ModelInfo;
using schedule::BatchReading;
using schedule::StepTime;

void render_batch_metrics(PrometheusText& out, std::span<const ModelInfo> models) {
  out.family(kCatalogue[kModelBatches]);
  for (const ModelInfo& info : models) {
    if (!info.batches) continue;
    for (std::size_t i = 0; i < schedule::kBatchCauses; ++i) {
      out.sample({{"model", info.name}, {"cause", to_string(static_cast<schedule::BatchCause>(i))}},
                 info.batches->by_cause[i]);
    }
  }
  out.family(kCatalogue[kModelBatchSize]);
  for (const ModelInfo& info : models) {
    if (!info.batches) continue;
    std::array<HistogramBucket, BatchReading::kSizes> buckets{};
    for (std::size_t i = 0; i < buckets.size(); ++i) {
      buckets[i] = {static_cast<double>(BatchReading::bound(i)), info.batches->by_size[i]};
    }
    out.histogram({{"model", info.name}}, buckets, 0, static_cast<double>(info.batches->members));
  }
  const auto learned = [&](Metric metric, double StepTime::Line::*part) {
    out.family(kCatalogue[metric]);
    for (const ModelInfo& info : models) {
      if (!info.batches || !info.batches->step_time) continue;
      out.sample({{"model", info.name}}, (*info.batches->step_time).*part);
    }
  };
  learned(kModelBatchFixed, &StepTime::Line::fixed_s);
  learned(kModelBatchItem, &StepTime::Line::item_s);
  out.family(kCatalogue[kModelBatchTokenBound]);
  for (const ModelInfo& info : models) {
    if (!info.batches || !info.batches->token_bound) continue;
    out.sample({{"model", info.name}}, *info.batches->token_bound);
  }
}

}  // namespace weir::telemetry
