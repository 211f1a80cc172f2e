// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/decode.h"

#include <netinet/in.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace weir::kernel {
namespace {

constexpr double kQ16 = 65536.0;

template <typename T>
T read_once(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_RELAXED);
}

}  // namespace

weir_endpoint encode(const Endpoint& endpoint) {
  weir_endpoint record{};
  std::copy(endpoint.ip.begin(), endpoint.ip.end(), record.ip);
  record.port = endpoint.port;
  record.protocol = IPPROTO_TCP;
  return record;
}

Endpoint decode(const weir_endpoint& endpoint) {
  Endpoint value;
  std::copy(std::begin(endpoint.ip), std::end(endpoint.ip), value.ip.begin());
  value.port = endpoint.port;
  return value;
}

std::uint64_t to_kernel_ns(TimePoint time) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count());
}

TimePoint from_kernel_ns(std::uint64_t ns) {
  return TimePoint(std::chrono::nanoseconds(static_cast<std::int64_t>(ns)));
}

std::uint32_t to_q16(double weight) {
  const double largest = std::numeric_limits<std::uint32_t>::max();
  return static_cast<std::uint32_t>(std::clamp(std::round(weight * kQ16), 0.0, largest));
}

BackendReading decode(const weir_be& record, std::uint32_t index) {
  BackendReading reading;
  reading.index = index;
  reading.pool = record.pool;
  reading.address = decode(record.address);
  reading.is_local = record.is_local != 0;
  reading.state = static_cast<weir_be_state>(read_once(record.state));
  reading.weight = read_once(record.weight_q16) / kQ16;
  reading.in_flight = read_once(record.in_flight);
  reading.waiting = read_once(record.waiting);
  reading.streaming = read_once(record.streaming);
  reading.consecutive_failures = read_once(record.consecutive_failures);
  reading.connects = read_once(record.connects);
  reading.established = read_once(record.established);
  reading.connect_failures = read_once(record.connect_failures);
  reading.requests = read_once(record.requests);
  reading.last_failure = from_kernel_ns(read_once(record.last_failure_ns));
  return reading;
}

ServiceReading decode(const weir_pool& record, std::uint32_t index) {
  ServiceReading reading;
  reading.pool = index;
  reading.name.assign(record.name, strnlen(record.name, sizeof(record.name)));
  reading.address = decode(record.address);
  reading.picks = read_once(record.picks);
  reading.misses = read_once(record.misses);
  return reading;
}

}  // namespace weir::kernel
