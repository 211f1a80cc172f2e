// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/model_metrics.h"

#include <array>
#include <chrono>
#include <cstdint>

#include "agent/schedule/wait_histogram.h"
#include "agent/telemetry/batch_metrics.h"
#include "agent/telemetry/catalogue.h"
#include "agent/telemetry/engine_metrics.h"
#include "agent/telemetry/memory_metrics.h"

namespace weir::telemetry {
namespace {

using model::ModelInfo;
using schedule::RefusalReason;
using schedule::WaitHistogram;

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

void render_states(PrometheusText& out, std::span<const ModelInfo> models) {
  using enum ModelInfo::State;
  out.family(kCatalogue[kModelState]);
  for (const ModelInfo& info : models) {
    for (const ModelInfo::State state :
         {kUnloaded, kLoading, kWarming, kReady, kFailed, kDraining}) {
      out.sample({{"model", info.name}, {"state", to_string(state)}},
                 std::uint64_t{info.state == state ? 1U : 0U});
    }
  }
}

void render_unloads(PrometheusText& out, std::span<const ModelInfo> models) {
  out.family(kCatalogue[kModelUnloads]);
  for (const ModelInfo& info : models) {
    for (std::size_t i = 0; i < info.unloads.size(); ++i) {
      out.sample({{"model", info.name}, {"cause", to_string(static_cast<model::UnloadCause>(i))}},
                 info.unloads[i]);
    }
  }
}

void render_ends(PrometheusText& out, std::span<const ModelInfo> models) {
  out.family(kCatalogue[kModelFinished]);
  for (const ModelInfo& info : models) {
    out.sample({{"model", info.name}, {"outcome", "completed"}}, info.completed);
    out.sample({{"model", info.name}, {"outcome", "failed"}}, info.failed);
    out.sample({{"model", info.name}, {"outcome", "cancelled"}}, info.cancelled);
    out.sample({{"model", info.name}, {"outcome", "expired"}}, info.expired);
  }
  out.family(kCatalogue[kModelRefused]);
  for (const ModelInfo& info : models) {
    // The others are reasons of the stages before.
    for (const RefusalReason reason :
         {RefusalReason::kQueueFull, RefusalReason::kDeadline, RefusalReason::kDraining,
          RefusalReason::kLoading, RefusalReason::kMemory, RefusalReason::kCancelled}) {
      out.sample({{"model", info.name}, {"reason", to_string(reason)}},
                 info.refused[static_cast<std::size_t>(reason)]);
    }
  }
}

void render_waits(PrometheusText& out, std::span<const ModelInfo> models) {
  out.family(kCatalogue[kModelQueueWait]);
  for (const ModelInfo& info : models) {
    std::array<HistogramBucket, WaitHistogram::kBuckets> buckets{};
    for (std::size_t i = 0; i < buckets.size(); ++i) {
      buckets[i] = {seconds(WaitHistogram::bound(i)), info.queue_wait.counts[i]};
    }
    out.histogram({{"model", info.name}}, buckets, info.queue_wait.counts.back(),
                  seconds(info.queue_wait.sum));
  }
}

}  // namespace

void render_model_metrics(PrometheusText& out, std::span<const ModelInfo> models) {
  const auto each = [&](Metric metric, auto value) {
    out.family(kCatalogue[metric]);
    for (const ModelInfo& info : models) out.sample({{"model", info.name}}, value(info));
  };
  const auto count = [&](Metric metric, auto ModelInfo::*field) {
    each(metric, [&](const ModelInfo& info) { return std::uint64_t{info.*field}; });
  };
  render_states(out, models);
  each(kModelLoadRatio, [](const ModelInfo& info) { return double{info.load_progress}; });
  count(kModelLoads, &ModelInfo::loads);
  count(kModelLoadFailures, &ModelInfo::load_failures);
  render_unloads(out, models);
  count(kModelMemoryBytes, &ModelInfo::memory_bytes);
  render_memory_metrics(out, models);
  count(kModelFileBytes, &ModelInfo::file_bytes);
  count(kModelParameters, &ModelInfo::parameters);
  count(kModelContextTokens, &ModelInfo::context_tokens);
  count(kModelQueued, &ModelInfo::queued);
  count(kModelQueuedTokens, &ModelInfo::queued_tokens);
  count(kModelOverdue, &ModelInfo::overdue);
  count(kModelRunning, &ModelInfo::running);
  count(kModelResting, &ModelInfo::resting);
  count(kModelAccepted, &ModelInfo::accepted);
  render_ends(out, models);
  count(kModelPromoted, &ModelInfo::promoted);
  render_waits(out, models);
  count(kModelPromptTokens, &ModelInfo::prompt_tokens);
  count(kModelCompletionTokens, &ModelInfo::completion_tokens);
  count(kModelDecodeSteps, &ModelInfo::decode_steps);
  count(kModelDecodeAborts, &ModelInfo::decode_aborts);
  render_engine_metrics(out, models);
  render_batch_metrics(out, models);
}

}  // namespace weir::telemetry
