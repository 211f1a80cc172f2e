// SPDX-License-Identifier: Apache-2.0
#include "agent/base/build_info.h"
#include "agent/serve/handlers.h"
#include "agent/telemetry/metrics.h"

namespace weir::serve {

void add_metrics(Router& router, const Services& services) {
  router.add("GET", "/metrics", [services](const std::shared_ptr<Exchange>& exchange) {
    const auto snapshot = services.metrics.kernel_snapshot();
    telemetry::MetricsInput input;
    input.build_id = build_id();
    input.http = services.server.http_reading();
    const admit::AdmissionReading admission = services.admission.reading();
    input.admission = &admission;
    input.models = services.executor.models();
    input.vetting = services.metrics.vetting_reading();
    input.sla = services.metrics.sla_reading();
    input.workers = services.metrics.worker_reading();
    input.kernel = snapshot.get();
    Response response;
    response.content_type = telemetry::PrometheusText::kContentType;
    response.body = telemetry::render_metrics(input);
    exchange->respond(std::move(response));
  });
}

}  // namespace weir::serve
