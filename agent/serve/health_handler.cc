// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "agent/serve/api_error.h"
#include "agent/serve/handlers.h"

namespace weir::serve {
namespace {

using model::ModelInfo;

Response text(std::string body) {
  Response response;
  response.content_type = "text/plain; charset=utf-8";
  response.body = std::move(body);
  return response;
}

Response not_ready(std::string code, std::string message) {
  ApiError error;
  error.status = 503;
  error.code = std::move(code);
  error.message = std::move(message);
  error.retry_after = std::chrono::seconds(1);
  return to_response(error);
}

Response readiness(const Services& services) {
  if (services.server.draining()) return not_ready("draining", "the agent is shutting down");
  const std::vector<ModelInfo> models = services.executor.models();
  for (const ModelInfo& info : models) {
    if (info.state == ModelInfo::State::kFailed) {
      return not_ready("model_failed", "model " + info.name + " failed: " + info.failure);
    }
  }
  // An unloaded model loads at its first request, so it is usable. An agent without models steers
  // only, and is ready.
  const bool usable =
      models.empty() || std::any_of(models.begin(), models.end(), [](const auto& m) {
        return m.state == ModelInfo::State::kReady ||
               (m.state == ModelInfo::State::kUnloaded && !m.disabled);
      });
  return usable ? text("ready\n") : not_ready("loading", "no model is ready yet");
}

}  // namespace

void add_health(Router& router, const Services& services) {
  // Alive means that an I/O thread answers; it must never depend on an engine.
  router.add("GET", "/healthz",
             [](const std::shared_ptr<Exchange>& exchange) { exchange->respond(text("ok\n")); });
  router.add("GET", "/readyz", [services](const std::shared_ptr<Exchange>& exchange) {
    exchange->respond(readiness(services));
  });
}

}  // namespace weir::serve
