// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/http_counters.h"

#include <algorithm>

namespace weir::telemetry {
namespace {

std::size_t index_of(unsigned status) {
  const auto found = std::find(kHttpCodes.begin(), kHttpCodes.end(), static_cast<int>(status));
  return found != kHttpCodes.end() ? static_cast<std::size_t>(found - kHttpCodes.begin())
                                   : index_of(500);
}

}  // namespace

void HttpCounters::request_finished(std::size_t route, unsigned status, Duration duration) {
  Route& counters = routes_[route];
  std::size_t bucket = 0;
  while (bucket < kDurationBuckets && duration > duration_bucket_bound(bucket)) ++bucket;
  add(counters.by_code[index_of(status)]);
  add(counters.duration_buckets[bucket]);
  add(counters.duration_ns, std::chrono::nanoseconds(duration).count());
  add(in_flight_, -1);
}

void HttpCounters::add_to(HttpReading& reading) const {
  const auto sum = [](std::uint64_t& into, const Counter& counter) {
    into += counter.load(std::memory_order_relaxed);
  };
  for (std::size_t r = 0; r < routes_.size(); ++r) {
    RouteReading& into = reading.routes[r];
    const Route& from = routes_[r];
    for (std::size_t i = 0; i < kHttpCodes.size(); ++i) sum(into.by_code[i], from.by_code[i]);
    for (std::size_t i = 0; i <= kDurationBuckets; ++i) {
      sum(into.duration_buckets[i], from.duration_buckets[i]);
    }
    into.duration_sum += std::chrono::nanoseconds(from.duration_ns.load(std::memory_order_relaxed));
  }
  for (std::size_t i = 0; i < kRefusalReasons; ++i) sum(reading.refusals[i], refusals_[i]);
  sum(reading.requests_in_flight, in_flight_);
  sum(reading.connections, connections_);
  sum(reading.connections_accepted, connections_accepted_);
  sum(reading.connections_refused, connections_refused_);
  sum(reading.accept_failures, accept_failures_);
  sum(reading.slow_readers_cut, slow_readers_cut_);
}

}  // namespace weir::telemetry
