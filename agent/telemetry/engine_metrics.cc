// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/engine_metrics.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "agent/telemetry/catalogue.h"

namespace weir::telemetry {

using model::EngineReading;
using model::InstanceReading;
using model::ModelInfo;

void render_engine_metrics(PrometheusText& out, std::span<const ModelInfo> models) {
  const auto render = [&](Metric metric, auto EngineReading::*field) {
    out.family(kCatalogue[metric]);
    for (const ModelInfo& info : models) {
      if (info.batches) continue;
      out.sample({{"model", info.name}}, std::uint64_t{info.engine.*field});
    }
  };
  render(kModelKvCells, &EngineReading::kv_cells);
  render(kModelKvCellsInUse, &EngineReading::kv_cells_in_use);
  render(kModelKvCellsKept, &EngineReading::kv_cells_kept);
  render(kModelParked, &EngineReading::parked);
  render(kModelParkedBytes, &EngineReading::parked_bytes);
  render(kModelParks, &EngineReading::parks);
  render(kModelRestores, &EngineReading::restores);
  render(kModelRecomputes, &EngineReading::recomputes);
  render(kModelRecomputedTokens, &EngineReading::recomputed_tokens);
  render(kModelParkDrops, &EngineReading::park_drops);
  render(kModelPreemptions, &EngineReading::preemptions);
  render(kModelPauses, &EngineReading::pauses);
  render(kModelPrefixLookups, &EngineReading::prefix_lookups);
  render(kModelPrefixHits, &EngineReading::prefix_hits);
  render(kModelPrefixTokens, &EngineReading::prefix_tokens);
  render(kModelKeptEvictions, &EngineReading::kept_evictions);
  const auto render_each = [&](Metric metric, auto InstanceReading::*field) {
    out.family(kCatalogue[metric]);
    for (const ModelInfo& info : models) {
      for (std::size_t i = 0; i < info.instances.size(); ++i) {
        out.sample({{"model", info.name}, {"instance", std::to_string(i)}},
                   std::uint64_t{info.instances[i].*field});
      }
    }
  };
  render_each(kModelInstanceRunning, &InstanceReading::running);
  render_each(kModelInstanceDecodeSteps, &InstanceReading::decode_steps);
  render_each(kModelInstanceCompletionTokens, &InstanceReading::completion_tokens);
  render(kModelDraftTokens, &EngineReading::draft_tokens);
  render(kModelDraftHits, &EngineReading::draft_hits);
  render(kModelSlicedPrompts, &EngineReading::sliced_prompts);
  render(kModelSlicedDrops, &EngineReading::sliced_drops);
}

}  // namespace weir::telemetry
