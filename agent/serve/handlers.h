// SPDX-License-Identifier: Apache-2.0
//
// What this server answers. One file per group of routes; handlers know exchanges and the executor,
// never sockets.
//
// Thread-safety: the add functions are called once, before the server starts; the handlers they add
// run on any I/O thread.
#pragma once

#include "agent/admit/admission.h"
#include "agent/base/clock.h"
#include "agent/model/generation.h"
#include "agent/model/model_admin.h"
#include "agent/schedule/worker_pool.h"
#include "agent/serve/router.h"
#include "agent/telemetry/http_counters.h"
#include "agent/telemetry/metrics_source.h"

namespace weir::serve {

/// The server as its handlers see it. Thread-safe.
class ServerState {
 public:
  virtual ~ServerState() = default;
  [[nodiscard]] virtual bool draining() const = 0;
  [[nodiscard]] virtual telemetry::HttpReading http_reading() const = 0;
  [[nodiscard]] virtual const Router& router() const = 0;
};

/// Everything a handler may use; outlives the handlers.
struct Services {
  model::Executor& executor;
  admit::Admission& admission;
  const telemetry::MetricsSource& metrics;
  const Clock& clock;
  const ServerState& server;
  model::ModelAdmin* admin;       ///< null: models are not loaded and unloaded over HTTP
  schedule::WorkerPool* workers;  ///< null: all is done on the I/O threads
};

void add_index(Router& router, const Services& services);        ///< GET /
void add_health(Router& router, const Services& services);       ///< GET /healthz, /readyz
void add_metrics(Router& router, const Services& services);      ///< GET /metrics
void add_models(Router& router, const Services& services);       ///< GET /v1/models[/{id}]
void add_repository(Router& router, const Services& services);   ///< POST /v2/repository/...
void add_infer(Router& router, const Services& services);        ///< POST /infer
void add_completions(Router& router, const Services& services);  ///< POST /v1/completions
void add_embeddings(Router& router, const Services& services);  ///< POST /v1/embeddings, /v1/rerank

}  // namespace weir::serve
