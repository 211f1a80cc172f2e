// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/metrics.h"

#include <array>

#include "agent/telemetry/catalogue.h"
#include "agent/telemetry/kernel_metrics.h"

namespace weir::telemetry {
namespace {

using model::ModelInfo;

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

void render_http(PrometheusText& out, const HttpReading& http) {
  out.family(kCatalogue[kHttpRequests]);
  for (const RouteReading& route : http.routes) {
    for (std::size_t i = 0; i < kHttpCodes.size(); ++i) {
      if (route.by_code[i] == 0) continue;  // codes that never happened would be most of them
      out.sample({{"path", route.path}, {"code", std::to_string(kHttpCodes[i])}}, route.by_code[i]);
    }
  }
  out.family(kCatalogue[kHttpDuration]);
  for (const RouteReading& route : http.routes) {
    std::array<HistogramBucket, kDurationBuckets> buckets{};
    for (std::size_t i = 0; i < kDurationBuckets; ++i) {
      buckets[i] = {seconds(duration_bucket_bound(i)), route.duration_buckets[i]};
    }
    out.histogram({{"path", route.path}}, buckets, route.duration_buckets.back(),
                  seconds(route.duration_sum));
  }
  out.family(kCatalogue[kHttpInFlight]);
  out.sample({}, http.requests_in_flight);
  out.family(kCatalogue[kHttpConnections]);
  out.sample({}, http.connections);
  out.family(kCatalogue[kHttpConnectionsAccepted]);
  out.sample({}, http.connections_accepted);
  out.family(kCatalogue[kHttpConnectionsRefused]);
  out.sample({}, http.connections_refused);
  out.family(kCatalogue[kHttpAcceptFailures]);
  out.sample({}, http.accept_failures);
  out.family(kCatalogue[kHttpRefusals]);
  for (std::size_t i = 0; i < kRefusalReasons; ++i) {
    out.sample({{"reason", to_string(static_cast<model::RefusalReason>(i))}}, http.refusals[i]);
  }
  out.family(kCatalogue[kHttpSlowReaders]);
  out.sample({}, http.slow_readers_cut);
  const auto each = [&](Metric metric, std::uint64_t ListenerThreadReading::*field) {
    out.family(kCatalogue[metric]);
    for (std::size_t i = 0; i < http.listeners.size(); ++i) {
      out.sample({{"thread", std::to_string(i)}}, http.listeners[i].*field);
    }
  };
  each(kListenerConnections, &ListenerThreadReading::connections);
  each(kListenerDepth, &ListenerThreadReading::depth);
  each(kListenerTakenOver, &ListenerThreadReading::taken_over);
}

void render_models(PrometheusText& out, const std::vector<ModelInfo>& models) {
  using enum ModelInfo::State;
  out.family(kCatalogue[kModelState]);
  for (const ModelInfo& info : models) {
    for (const ModelInfo::State state : {kUnloaded, kLoading, kReady, kFailed, kDraining}) {
      out.sample({{"model", info.name}, {"state", to_string(state)}},
                 std::uint64_t{info.state == state ? 1U : 0U});
    }
  }
  const auto each = [&](Metric metric, auto value) {
    out.family(kCatalogue[metric]);
    for (const ModelInfo& info : models) out.sample({{"model", info.name}}, value(info));
  };
  const auto count = [&](Metric metric, auto ModelInfo::*field) {
    each(metric, [&](const ModelInfo& info) { return std::uint64_t{info.*field}; });
  };
  each(kModelLoadRatio, [](const ModelInfo& info) { return double{info.load_progress}; });
  count(kModelFileBytes, &ModelInfo::file_bytes);
  count(kModelParameters, &ModelInfo::parameters);
  count(kModelContextTokens, &ModelInfo::context_tokens);
  count(kModelQueued, &ModelInfo::queued);
  count(kModelRunning, &ModelInfo::running);
  count(kModelAccepted, &ModelInfo::accepted);
  out.family(kCatalogue[kModelFinished]);
  for (const ModelInfo& info : models) {
    out.sample({{"model", info.name}, {"outcome", "completed"}}, info.completed);
    out.sample({{"model", info.name}, {"outcome", "failed"}}, info.failed);
    out.sample({{"model", info.name}, {"outcome", "cancelled"}}, info.cancelled);
  }
  out.family(kCatalogue[kModelRefused]);
  for (const ModelInfo& info : models) {
    out.sample({{"model", info.name}, {"reason", to_string(model::RefusalReason::kQueueFull)}},
               info.refused_queue_full);
  }
  count(kModelPromptTokens, &ModelInfo::prompt_tokens);
  count(kModelCompletionTokens, &ModelInfo::completion_tokens);
  count(kModelDecodeSteps, &ModelInfo::decode_steps);
}

}  // namespace

std::string render_metrics(const MetricsInput& input) {
  PrometheusText out;
  out.family(kCatalogue[kBuildInfo]);
  out.sample({{"build_id", input.build_id}}, std::uint64_t{1});
  render_http(out, input.http);
  render_models(out, input.models);
  if (input.kernel != nullptr) render_kernel_metrics(out, *input.kernel);
  return std::move(out).take();
}

std::span<const MetricDescription> metric_catalogue() { return kCatalogue; }

}  // namespace weir::telemetry
