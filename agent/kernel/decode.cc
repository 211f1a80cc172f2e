// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/decode.h"

#include <netinet/in.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "bpf/lib/breaker.bpf.h"

namespace weir::kernel {
namespace {

constexpr double kQ16 = 65536.0;
constexpr double kLoadPerRequest = 4.0;  // weir_load() counts in quarters
constexpr std::uint64_t kNsPerMs = 1'000'000;

template <typename T>
T read_once(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_RELAXED);
}

std::optional<std::chrono::microseconds> decode_us(std::uint32_t us) {
  if (us == 0) return std::nullopt;
  return std::chrono::microseconds(us);
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
  // 0 says that a backend has no share at all.
  const double least = weight > 0 ? 1 : 0;
  return static_cast<std::uint32_t>(std::clamp(std::round(weight * kQ16), least, largest));
}

const Histogram& BackendReading::histogram(weir_hist_kind kind) const {
  static const Histogram kEmpty;
  return histograms ? (*histograms)[kind] : kEmpty;
}

BreakerReading decode_breaker(std::uint64_t word) {
  const weir_breaker breaker = weir_breaker_unpack(word);
  BreakerReading reading;
  reading.state = static_cast<weir_breaker_state>(breaker.state);
  reading.level = breaker.level;
  reading.until = from_kernel_ns(breaker.until_ms * kNsPerMs);
  return reading;
}

std::uint32_t to_load(double requests) {
  const double largest = std::numeric_limits<std::uint32_t>::max();
  return static_cast<std::uint32_t>(
      std::clamp(std::round(requests * kLoadPerRequest), 0.0, largest));
}

BackendReading decode(const weir_be& record, const weir_total& total, std::uint32_t index) {
  BackendReading reading;
  reading.index = index;
  reading.pool = record.pool;
  reading.address = decode(record.address);
  reading.is_local = total.is_local != 0;
  reading.state = static_cast<weir_be_state>(read_once(record.state));
  reading.breaker = decode_breaker(read_once(record.breaker));
  reading.weight = read_once(record.weight_q16) / kQ16;
  reading.latency = decode_us(read_once(record.latency_us));
  reading.min_rtt = decode_us(read_once(total.min_rtt_us));
  reading.in_flight = read_once(record.in_flight);
  reading.fresh = read_once(record.fresh);
  reading.waiting = read_once(record.waiting);
  reading.streaming = read_once(record.streaming);
  reading.consecutive_failures = read_once(total.consecutive_failures);
  reading.connects = read_once(total.connects);
  reading.direct = read_once(total.direct);
  reading.adopted = read_once(total.adopted);
  reading.established = read_once(total.established);
  reading.connect_failures = read_once(total.connect_failures);
  reading.refused = read_once(total.refused);
  reading.timed_out = read_once(total.timed_out);
  reading.resets = read_once(total.resets);
  reading.mux = read_once(total.mux);
  reading.closes = read_once(total.closes);
  reading.requests = read_once(total.requests);
  reading.interim = read_once(total.interim);
  reading.bytes_sent = read_once(total.bytes_sent);
  reading.bytes_received = read_once(total.bytes_received);
  reading.retransmits = read_once(total.retransmits);
  reading.rtos = read_once(total.rtos);
  reading.breaker_opens = read_once(total.breaker_opens);
  reading.idle_ended = read_once(total.idle_ended);
  reading.last_failure = from_kernel_ns(read_once(total.last_failure_ns));
  return reading;
}

ServiceReading decode(const weir_pool& record, std::uint32_t index) {
  ServiceReading reading;
  reading.pool = index;
  reading.name.assign(record.name, strnlen(record.name, sizeof(record.name)));
  reading.address = decode(record.address);
  reading.policy = static_cast<weir_policy>(record.policy);
  const std::uint32_t flags = read_once(record.flags);
  reading.refuse_when_empty = (flags & WEIR_POOL_REFUSE_WHEN_EMPTY) != 0;
  reading.end_idle_when_open = (flags & WEIR_POOL_END_IDLE) != 0;
  if (record.backup != WEIR_NO_POOL) reading.backup = record.backup;
  reading.rif_limit = read_once(record.rif_limit) / kLoadPerRequest;
  reading.members = read_once(record.members);
  reading.open = read_once(record.open);
  reading.picks = read_once(record.picks);
  reading.misses = read_once(record.misses);
  reading.panics = read_once(record.panics);
  reading.backups = read_once(record.backups);
  return reading;
}

}  // namespace weir::kernel
