// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/memory_metrics.h"

#include "agent/telemetry/catalogue.h"

namespace weir::telemetry {

using model::MemoryReading;
using model::ModelInfo;

void render_memory_metrics(PrometheusText& out, std::span<const ModelInfo> models) {
  out.family(kCatalogue[kModelPartBytes]);
  for (const ModelInfo& info : models) {
    if (info.path.empty()) continue;
    const MemoryReading& memory = info.memory;
    out.sample({{"model", info.name}, {"part", "mapped"}}, memory.mapped_bytes);
    out.sample({{"model", info.name}, {"part", "copied"}}, memory.copied_bytes);
    out.sample({{"model", info.name}, {"part", "kv"}}, memory.kv_bytes);
    out.sample({{"model", info.name}, {"part", "compute"}}, memory.compute_bytes);
    out.sample({{"model", info.name}, {"part", "output"}}, memory.output_bytes);
  }
  out.family(kCatalogue[kModelResidentBytes]);
  for (const ModelInfo& info : models) {
    if (info.memory.resident_bytes) {
      out.sample({{"model", info.name}}, *info.memory.resident_bytes);
    }
  }
  out.family(kCatalogue[kModelThinLoads]);
  for (const ModelInfo& info : models) {
    if (!info.path.empty()) out.sample({{"model", info.name}}, info.thin_loads);
  }
}

}  // namespace weir::telemetry
