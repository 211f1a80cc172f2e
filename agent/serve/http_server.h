// SPDX-License-Identifier: Apache-2.0
//
// The HTTP/1.1 front: /infer, OpenAI's completions, health, metrics. Each I/O thread has its own
// event loop and its own SO_REUSEPORT listener; a connection stays on the thread that accepted it.
//
// Thread-safe: every method may be called from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "agent/admit/admission.h"
#include "agent/base/clock.h"
#include "agent/base/endpoint.h"
#include "agent/base/listener_group.h"
#include "agent/base/result.h"
#include "agent/model/generation.h"
#include "agent/model/model_admin.h"
#include "agent/schedule/worker_pool.h"
#include "agent/telemetry/http_counters.h"
#include "agent/telemetry/metrics_source.h"

namespace weir::serve {

/// Who may have models loaded and unloaded. Pages of browsers, which name their Origin, never.
enum class AdminApi { kLoopback, kAnyone, kNobody };

/// Checked in HttpServer::create().
struct ServeOptions {
  Endpoint listen;  ///< port 0: the kernel chooses
  /// Whether another process may be listening there already, one that hands over to this one.
  bool share_port = false;
  std::optional<unsigned> io_threads;           ///< 1..256; unset: one per two CPUs
  std::uint64_t max_body_bytes = 1 << 20;       ///< of one request; 1024..1 GiB
  std::uint32_t max_connections = 16384;        ///< 1..1048576; one more is answered with 503
  std::uint64_t max_stream_bytes = 1 << 20;     ///< unread by the client; 4 KiB..1 GiB
  std::string tenant_header = "x-weir-tenant";  ///< a token of RFC 9110
  AdminApi admin_api = AdminApi::kLoopback;
  /// Of requests that name no deadline; 1 ms..1 day. Unset: any time.
  std::optional<std::chrono::milliseconds> default_timeout;
  std::chrono::milliseconds header_timeout{10'000};  ///< first to last byte of a header
  /// Between two pieces of a body. In all it may take that and a second for each 32 KiB.
  std::chrono::milliseconds body_timeout{30'000};
  std::chrono::milliseconds idle_timeout{75'000};    ///< between two requests
  std::chrono::milliseconds write_timeout{30'000};   ///< without the client taking a byte
  std::chrono::milliseconds hand_over_grace{5'000};  ///< for one more request; begin_hand_over()
};

class HttpServer {
 public:
  /// Listens and serves when it returns. kInvalidArgument names the option and its limit; kIo says
  /// which address could not be bound. `executor`, `admission`, `metrics`, `clock`, `admin` and
  /// `workers` must outlive the server; without `admin` there are no routes for it, without
  /// `workers` the I/O threads parse large bodies too.
  static Result<std::unique_ptr<HttpServer>> create(
      const ServeOptions& options, model::Executor& executor, admit::Admission& admission,
      const telemetry::MetricsSource& metrics, const Clock& clock,
      model::ModelAdmin* admin = nullptr, schedule::WorkerPool* workers = nullptr);

  /// Closes every connection at once; running generations are cancelled. Listeners that an executor
  /// still holds may be called afterwards, to no effect.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// The bound address, with the port that the kernel chose.
  [[nodiscard]] const Endpoint& endpoint() const;

  /// Lets the kernel choose among the listeners by what each has to do, not by a hash. `group` must
  /// outlive the server. On failure some may have joined: it goes on with those.
  Status join(ListenerGroup& group);

  /// Another process listens on the same port: leaves the group and closes the listeners, whose
  /// queued connections move there. Open connections are served on; each is told with its next
  /// answer to come back on a new one, or closed after hand_over_grace without a request. Returns
  /// at once; has no effect after begin_drain().
  void begin_hand_over();

  /// Stops listening, closes idle connections, answers running requests with `Connection: close`
  /// and new generations with 503. Returns at once; calling it again does nothing.
  void begin_drain();

  /// Waits until every connection is closed after begin_drain() or begin_hand_over(); false when it
  /// took longer.
  [[nodiscard]] bool wait_drained(std::chrono::milliseconds at_most);

  [[nodiscard]] telemetry::HttpReading http_reading() const;

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace weir::serve
