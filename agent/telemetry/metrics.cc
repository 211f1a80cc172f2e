// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/metrics.h"

#include <array>

#include "agent/kernel/names.h"
#include "agent/telemetry/stat_names.h"

namespace weir::telemetry {
namespace {

using enum MetricType;
using model::ModelInfo;

// Indexes kCatalogue; the order is that of the output.
enum Metric : std::size_t {
  kBuildInfo,
  kHttpRequests,
  kHttpDuration,
  kHttpInFlight,
  kHttpConnections,
  kHttpConnectionsAccepted,
  kHttpConnectionsRefused,
  kHttpAcceptFailures,
  kHttpRefusals,
  kHttpSlowReaders,
  kModelState,
  kModelLoadRatio,
  kModelFileBytes,
  kModelParameters,
  kModelContextTokens,
  kModelQueued,
  kModelRunning,
  kModelAccepted,
  kModelFinished,
  kModelRefused,
  kModelPromptTokens,
  kModelCompletionTokens,
  kModelDecodeSteps,
  kServicePicks,
  kServiceMisses,
  kBackendState,
  kBackendWeight,
  kBackendInFlight,
  kBackendWaiting,
  kBackendStreaming,
  kBackendConsecutiveFailures,
  kBackendConnects,
  kBackendEstablished,
  kBackendConnectFailures,
  kBackendRequests,
  kBackendConnectDuration,
  kBackendTtfb,
  kKernelInfo,
  kKernelEvents,
  kMetricCount
};

constexpr std::array<MetricDescription, kMetricCount> kCatalogue = {{
    {"weir_build_info", kGauge, "1", "Constant 1; the label says which build this is."},
    {"weir_http_requests_total", kCounter, "requests",
     "HTTP requests answered, by route and status; 499: the client left first."},
    {"weir_http_request_duration_seconds", kHistogram, "seconds",
     "From the first byte of a request to the last byte of its answer, by route."},
    {"weir_http_requests_in_flight", kGauge, "requests", "Requests being read or answered now."},
    {"weir_http_connections", kGauge, "connections", "Open client connections."},
    {"weir_http_connections_accepted_total", kCounter, "connections",
     "Client connections accepted."},
    {"weir_http_connections_refused_total", kCounter, "connections",
     "Client connections turned away because max_connections were open."},
    {"weir_http_accept_failures_total", kCounter, "attempts",
     "Times that accept() failed, mostly for want of file descriptors; the client waits on."},
    {"weir_http_refusals_total", kCounter, "requests",
     "Requests refused under load, by reason; answered with 429 or 503."},
    {"weir_http_slow_readers_total", kCounter, "connections",
     "Streams cut because the client did not read them."},
    {"weir_model_state", kGauge, "1", "1 for the state that the model is in, 0 for the others."},
    {"weir_model_load_ratio", kGauge, "ratio", "How much of the model is loaded, 0 to 1."},
    {"weir_model_file_bytes", kGauge, "bytes", "Size of the model's file."},
    {"weir_model_parameters", kGauge, "1", "Parameters of the model; 0 until it is loaded."},
    {"weir_model_context_tokens", kGauge, "tokens",
     "Context of one sequence; 0 until the model is loaded."},
    {"weir_model_queued", kGauge, "requests", "Requests waiting for a sequence."},
    {"weir_model_running", kGauge, "requests", "Requests that hold a sequence."},
    {"weir_model_requests_accepted_total", kCounter, "requests",
     "Requests taken into the model's queue."},
    {"weir_model_requests_finished_total", kCounter, "requests",
     "Accepted requests that ended, by outcome."},
    {"weir_model_requests_refused_total", kCounter, "requests",
     "Requests that the model's queue refused, by reason."},
    {"weir_model_prompt_tokens_total", kCounter, "tokens", "Prompt tokens processed."},
    {"weir_model_completion_tokens_total", kCounter, "tokens", "Tokens generated."},
    {"weir_model_decode_steps_total", kCounter, "steps",
     "Decode steps; completion tokens divided by these is the mean batch."},
    {"weir_service_picks_total", kCounter, "connections",
     "Connections to the service that were steered to a backend."},
    {"weir_service_misses_total", kCounter, "connections",
     "Connections to the service that found no backend."},
    {"weir_backend_state", kGauge, "1",
     "1 for the state that the backend is in, 0 for the others; open: its breaker is."},
    {"weir_backend_weight", kGauge, "1", "Relative share of new connections."},
    {"weir_backend_in_flight", kGauge, "connections", "Connections steered here and not closed."},
    {"weir_backend_waiting", kGauge, "requests", "Requests sent, without a response byte yet."},
    {"weir_backend_streaming", kGauge, "connections",
     "Connections whose response has begun and was not followed by another request, idle ones "
     "too."},
    {"weir_backend_consecutive_failures", kGauge, "connections",
     "Failed connects since the last successful one."},
    {"weir_backend_connects_total", kCounter, "connections", "Connects steered to the backend."},
    {"weir_backend_established_total", kCounter, "connections", "Completed handshakes."},
    {"weir_backend_connect_failures_total", kCounter, "connections",
     "Connects that were never established: refused, timed out, no route."},
    {"weir_backend_requests_total", kCounter, "requests",
     "Requests whose first response byte was seen."},
    {"weir_backend_connect_duration_seconds", kHistogram, "seconds",
     "From connect() to the established connection."},
    {"weir_backend_time_to_first_byte_seconds", kHistogram, "seconds",
     "From the last request byte to the first response byte."},
    {"weir_kernel_info", kGauge, "1",
     "Constant 1 while the kernel side is attached; the labels describe it."},
    {"weir_kernel_events_total", kCounter, "events",
     "Decisions of the kernel programs, by event; underflow_prevented and bad_index stay 0."},
}};

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

// One bucket per octave of the kernel's four: 27 lines instead of 108. The last octave also holds
// everything longer, so its bound is +Inf.
void render_kernel_histogram(PrometheusText& out, Labels labels,
                             const kernel::Histogram& histogram) {
  std::array<HistogramBucket, WEIR_HIST_OCTAVES - 1> buckets{};
  std::uint64_t overflow = 0;
  for (std::size_t i = 0; i < WEIR_HIST_BUCKETS; ++i) {
    const std::uint64_t count = histogram.buckets()[i].count;
    const std::size_t octave = i / WEIR_HIST_SUB;
    if (octave >= buckets.size()) {
      overflow += count;
      continue;
    }
    buckets[octave].upper_seconds = seconds(kernel::Histogram::upper_bound(i));
    buckets[octave].count += count;
  }
  out.histogram(labels, buckets, overflow, seconds(histogram.sum()));
}

void render_backends(PrometheusText& out, const std::vector<kernel::BackendReading>& backends) {
  using kernel::BackendReading;
  const auto each = [&](Metric metric, auto emit) {
    out.family(kCatalogue[metric]);
    for (const BackendReading& backend : backends) emit(backend, backend.address.to_string());
  };
  const auto count = [&](Metric metric, auto BackendReading::*field) {
    each(metric, [&](const BackendReading& backend, const std::string& address) {
      out.sample({{"service", backend.service}, {"backend", address}},
                 std::uint64_t{backend.*field});
    });
  };
  const auto durations = [&](Metric metric, kernel::Histogram BackendReading::*field) {
    each(metric, [&](const BackendReading& backend, const std::string& address) {
      render_kernel_histogram(out, {{"service", backend.service}, {"backend", address}},
                              backend.*field);
    });
  };
  each(kBackendState, [&](const BackendReading& backend, const std::string& address) {
    for (const weir_be_state state : {WEIR_BE_ACTIVE, WEIR_BE_OPEN, WEIR_BE_DRAINING}) {
      out.sample(
          {{"service", backend.service}, {"backend", address}, {"state", kernel::to_string(state)}},
          std::uint64_t{backend.state == state ? 1U : 0U});
    }
  });
  each(kBackendWeight, [&](const BackendReading& backend, const std::string& address) {
    out.sample({{"service", backend.service}, {"backend", address}}, backend.weight);
  });
  count(kBackendInFlight, &BackendReading::in_flight);
  count(kBackendWaiting, &BackendReading::waiting);
  count(kBackendStreaming, &BackendReading::streaming);
  count(kBackendConsecutiveFailures, &BackendReading::consecutive_failures);
  count(kBackendConnects, &BackendReading::connects);
  count(kBackendEstablished, &BackendReading::established);
  count(kBackendConnectFailures, &BackendReading::connect_failures);
  count(kBackendRequests, &BackendReading::requests);
  durations(kBackendConnectDuration, &BackendReading::connect_latency);
  durations(kBackendTtfb, &BackendReading::ttfb);
}

void render_kernel(PrometheusText& out, const kernel::Snapshot& snapshot) {
  out.family(kCatalogue[kServicePicks]);
  for (const kernel::ServiceReading& service : snapshot.services) {
    out.sample({{"service", service.name}, {"address", service.address.to_string()}},
               service.picks);
  }
  out.family(kCatalogue[kServiceMisses]);
  for (const kernel::ServiceReading& service : snapshot.services) {
    out.sample({{"service", service.name}, {"address", service.address.to_string()}},
               service.misses);
  }
  render_backends(out, snapshot.backends);
  out.family(kCatalogue[kKernelInfo]);
  out.sample({{"abi", std::to_string(snapshot.meta.abi_version)},
              {"request_clock",
               kernel::to_string(static_cast<weir_request_clock>(snapshot.meta.request_clock))}},
             std::uint64_t{1});
  out.family(kCatalogue[kKernelEvents]);
  for (const StatName& stat : kStatNames) {
    out.sample({{"event", stat.name}}, snapshot.stats[static_cast<std::size_t>(stat.id)]);
  }
}

}  // namespace

std::string render_metrics(const MetricsInput& input) {
  PrometheusText out;
  out.family(kCatalogue[kBuildInfo]);
  out.sample({{"build_id", input.build_id}}, std::uint64_t{1});
  render_http(out, input.http);
  render_models(out, input.models);
  if (input.kernel != nullptr) render_kernel(out, *input.kernel);
  return std::move(out).take();
}

std::span<const MetricDescription> metric_catalogue() { return kCatalogue; }

}  // namespace weir::telemetry
