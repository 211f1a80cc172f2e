// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/kernel_metrics.h"

#include <array>
#include <chrono>
#include <optional>
#include <string>

#include "agent/kernel/names.h"
#include "agent/telemetry/catalogue.h"
#include "agent/telemetry/stat_names.h"

namespace weir::telemetry {
namespace {

using kernel::BackendReading;
using kernel::ServiceReading;

double seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double>(duration).count();
}

std::uint64_t flag(bool value) { return value ? 1 : 0; }

// One bucket per octave of the kernel's four: 27 lines instead of 108. The last octave also holds
// everything longer, so its bound is +Inf.
void render_histogram(PrometheusText& out, Labels labels, const kernel::Histogram& histogram) {
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

void render_services(PrometheusText& out, const std::vector<ServiceReading>& services) {
  // A backup pool has no address; an empty label is as good as none.
  const auto address = [](const ServiceReading& service) {
    return service.is_backup() ? std::string() : service.address.to_string();
  };
  const auto each = [&](Metric metric, auto value) {
    out.family(kCatalogue[metric]);
    for (const ServiceReading& service : services) {
      out.sample({{"service", service.name}, {"address", address(service)}}, value(service));
    }
  };
  const auto count = [&](Metric metric, auto ServiceReading::*field) {
    each(metric, [&](const ServiceReading& service) { return std::uint64_t{service.*field}; });
  };
  out.family(kCatalogue[kServiceInfo]);
  for (const ServiceReading& service : services) {
    out.sample({{"service", service.name},
                {"address", address(service)},
                {"policy", kernel::to_string(service.policy)},
                {"when_empty", service.refuse_when_empty ? "refuse" : "pass"}},
               std::uint64_t{1});
  }
  count(kServiceBackends, &ServiceReading::members);
  count(kServiceBackendsOpen, &ServiceReading::open);
  each(kServiceRifLimit, [](const ServiceReading& service) { return service.rif_limit; });
  count(kServicePicks, &ServiceReading::picks);
  count(kServiceMisses, &ServiceReading::misses);
  count(kServiceBackupPicks, &ServiceReading::backups);
  count(kServicePanicPicks, &ServiceReading::panics);
}

class BackendMetrics {
 public:
  BackendMetrics(PrometheusText& out, const std::vector<BackendReading>& backends)
      : out_(out), backends_(backends) {
    for (const BackendReading& backend : backends)
      addresses_.push_back(backend.address.to_string());
  }

  void render() {
    state<weir_be_state>(kBackendState, {WEIR_BE_ACTIVE, WEIR_BE_DRAINING},
                         [](const BackendReading& backend) { return backend.state; });
    state<weir_breaker_state>(kBackendBreakerState,
                              {WEIR_BREAKER_CLOSED, WEIR_BREAKER_OPEN, WEIR_BREAKER_HALF_OPEN},
                              [](const BackendReading& backend) { return backend.breaker.state; });
    value(kBackendBreakerLevel,
          [](const BackendReading& backend) { return std::uint64_t{backend.breaker.level}; });
    count(kBackendBreakerOpens, &BackendReading::breaker_opens);
    value(kBackendWeight, [](const BackendReading& backend) { return backend.weight; });
    known(kBackendLatency, &BackendReading::latency);
    known(kBackendMinRtt, &BackendReading::min_rtt);
    value(kBackendLoad, [](const BackendReading& backend) { return backend.load(); });
    count(kBackendInFlight, &BackendReading::in_flight);
    count(kBackendFresh, &BackendReading::fresh);
    count(kBackendWaiting, &BackendReading::waiting);
    count(kBackendStreaming, &BackendReading::streaming);
    count(kBackendConsecutiveFailures, &BackendReading::consecutive_failures);
    count(kBackendConnects, &BackendReading::connects);
    count(kBackendDirect, &BackendReading::direct);
    count(kBackendAdopted, &BackendReading::adopted);
    count(kBackendEstablished, &BackendReading::established);
    count(kBackendConnectFailures, &BackendReading::connect_failures);
    count(kBackendRefused, &BackendReading::refused);
    count(kBackendTimedOut, &BackendReading::timed_out);
    count(kBackendResets, &BackendReading::resets);
    count(kBackendCloses, &BackendReading::closes);
    count(kBackendMux, &BackendReading::mux);
    count(kBackendIdleEnded, &BackendReading::idle_ended);
    count(kBackendRequests, &BackendReading::requests);
    count(kBackendInterim, &BackendReading::interim);
    count(kBackendBytesSent, &BackendReading::bytes_sent);
    count(kBackendBytesReceived, &BackendReading::bytes_received);
    count(kBackendRetransmits, &BackendReading::retransmits);
    count(kBackendRtos, &BackendReading::rtos);
    durations(kBackendConnectDuration, WEIR_HIST_CONNECT);
    durations(kBackendTtfb, WEIR_HIST_TTFB);
    durations(kBackendRequestDuration, WEIR_HIST_DURATION);
    durations(kBackendRtt, WEIR_HIST_RTT);
    durations(kBackendUnread, WEIR_HIST_UNREAD);
  }

 private:
  template <typename Emit>
  void each(Metric metric, Emit emit) {
    out_.family(kCatalogue[metric]);
    for (std::size_t i = 0; i < backends_.size(); ++i) emit(backends_[i], addresses_[i]);
  }

  template <typename Value>
  void value(Metric metric, Value value) {
    each(metric, [&](const BackendReading& backend, const std::string& address) {
      out_.sample({{"service", backend.service}, {"backend", address}}, value(backend));
    });
  }

  template <typename Field>
  void count(Metric metric, Field BackendReading::*field) {
    value(metric, [&](const BackendReading& backend) { return std::uint64_t{backend.*field}; });
  }

  void known(Metric metric, std::optional<std::chrono::microseconds> BackendReading::*field) {
    each(metric, [&](const BackendReading& backend, const std::string& address) {
      if (!(backend.*field)) return;
      out_.sample({{"service", backend.service}, {"backend", address}}, seconds(*(backend.*field)));
    });
  }

  /// One series for each state, of which one is 1.
  template <typename State, typename Now>
  void state(Metric metric, std::initializer_list<State> states, Now now) {
    each(metric, [&](const BackendReading& backend, const std::string& address) {
      for (const State state : states) {
        out_.sample({{"service", backend.service},
                     {"backend", address},
                     {"state", kernel::to_string(state)}},
                    flag(now(backend) == state));
      }
    });
  }

  void durations(Metric metric, weir_hist_kind kind) {
    each(metric, [&](const BackendReading& backend, const std::string& address) {
      if (backend.histogram(kind).count() == 0) return;  // a hundred lines for every backend else
      render_histogram(out_, {{"service", backend.service}, {"backend", address}},
                       backend.histogram(kind));
    });
  }

  PrometheusText& out_;
  const std::vector<BackendReading>& backends_;
  std::vector<std::string> addresses_;  ///< of backends_, spelled once for all families
};

}  // namespace

void render_kernel_metrics(PrometheusText& out, const kernel::Snapshot& snapshot) {
  render_services(out, snapshot.services);
  BackendMetrics(out, snapshot.backends).render();
  out.family(kCatalogue[kKernelInfo]);
  out.sample({{"abi", std::to_string(snapshot.meta.abi_version)},
              {"request_clock",
               kernel::to_string(static_cast<weir_request_clock>(snapshot.meta.request_clock))}},
             std::uint64_t{1});
  const auto single = [&](Metric metric, std::uint64_t value) {
    out.family(kCatalogue[metric]);
    out.sample({}, value);
  };
  single(kKernelObservedSockets, snapshot.census.sockets);
  single(kKernelGaugeDrift, snapshot.census.drift);
  single(kKernelGaugeCorrections, snapshot.census.corrected);
  single(kKernelCensuses, snapshot.census.censuses);
  single(kKernelAdopted, snapshot.census.adopted);
  single(kKernelUnwatched, snapshot.census.unwatched);
  out.family(kCatalogue[kKernelEvents]);
  for (const StatName& stat : kStatNames) {
    out.sample({{"event", stat.name}}, snapshot.stats[static_cast<std::size_t>(stat.id)]);
  }
}

}  // namespace weir::telemetry
