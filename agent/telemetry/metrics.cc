// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/metrics.h"

#include <array>

#include "agent/telemetry/admission_metrics.h"
#include "agent/telemetry/catalogue.h"
#include "agent/telemetry/file_metrics.h"
#include "agent/telemetry/kernel_metrics.h"
#include "agent/telemetry/model_metrics.h"
#include "agent/telemetry/sla_metrics.h"
#include "agent/telemetry/worker_metrics.h"

namespace weir::telemetry {
namespace {

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

}  // namespace

std::string render_metrics(const MetricsInput& input) {
  PrometheusText out;
  out.family(kCatalogue[kBuildInfo]);
  out.sample({{"build_id", input.build_id}}, std::uint64_t{1});
  render_http(out, input.http);
  if (input.admission != nullptr) render_admission_metrics(out, *input.admission);
  render_model_metrics(out, input.models);
  render_file_metrics(out, input.vetting);
  render_sla_metrics(out, input.sla);
  if (input.workers) render_worker_metrics(out, *input.workers);
  if (input.kernel != nullptr) render_kernel_metrics(out, *input.kernel);
  return std::move(out).take();
}

std::span<const MetricDescription> metric_catalogue() { return kCatalogue; }

}  // namespace weir::telemetry
