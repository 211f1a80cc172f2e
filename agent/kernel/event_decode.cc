// SPDX-License-Identifier: Apache-2.0
#include "agent/kernel/event_decode.h"

#include <cstring>

#include "agent/kernel/decode.h"

namespace weir::kernel {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr double kQuartersPerRequest = 4;
constexpr double kQ16 = 65536;

template <typename T>
std::optional<T> copy_as(std::span<const std::byte> record) {
  T value;
  if (record.size() < sizeof(value)) return std::nullopt;
  std::memcpy(&value, record.data(), sizeof(value));
  return value;
}

std::string numbered(std::uint32_t index) { return "#" + std::to_string(index); }

std::string service_name(std::uint32_t pool, const EventNames& names) {
  if (pool >= names.pools.size()) return numbered(pool);
  const weir_pool& record = names.pools[pool];
  const std::string name(record.name, strnlen(record.name, sizeof(record.name)));
  return name.empty() ? numbered(pool) : name;
}

std::string backend_name(std::uint32_t backend, const EventNames& names) {
  if (backend >= names.backends.size()) return numbered(backend);
  const weir_be& record = names.backends[backend];
  if (record.state == WEIR_BE_FREE) return numbered(backend);
  return decode(record.address).to_string();
}

EventHead decode_head(const weir_event_head& record, const EventNames& names) {
  EventHead head;
  head.time = from_kernel_ns(record.time_ns);
  head.service = service_name(record.pool, names);
  if (record.backend != WEIR_NO_BACKEND) head.backend = backend_name(record.backend, names);
  head.cookie = record.cookie;
  return head;
}

nanoseconds to_ns(std::uint64_t ns) { return nanoseconds(static_cast<std::int64_t>(ns)); }

/// The abi's 0 for "none".
template <typename T>
std::optional<T> unless_zero(std::uint32_t value) {
  if (value == 0) return std::nullopt;
  return T(static_cast<int>(value));
}

Event decode_record(const weir_event_close& record, const EventNames& names) {
  CloseEvent event;
  event.head = decode_head(record.head, names);
  event.open = to_ns(record.open_ns);
  event.bytes_sent = record.bytes_sent;
  event.bytes_received = record.bytes_received;
  event.requests = record.requests;
  event.retransmits = record.retransmits;
  event.min_rtt = unless_zero<microseconds>(record.min_rtt_us);
  event.error = unless_zero<int>(record.error);
  event.flags = record.flags;
  return event;
}

Event decode_record(const weir_event_failure& record, const EventNames& names) {
  FailureEvent event;
  event.head = decode_head(record.head, names);
  event.error = unless_zero<int>(record.error);
  event.consecutive = record.consecutive;
  return event;
}

Event decode_record(const weir_event_breaker& record, const EventNames& names) {
  BreakerEvent event;
  event.head = decode_head(record.head, names);
  event.from = static_cast<weir_breaker_state>(record.from);
  event.to = static_cast<weir_breaker_state>(record.to);
  event.level = record.level;
  if (event.to == WEIR_BREAKER_OPEN) event.open = milliseconds(record.open_ms);
  return event;
}

Candidate decode_candidate(const weir_candidate& record, std::uint32_t breaker,
                           const weir_event_pick& pick, const EventNames& names) {
  Candidate candidate;
  candidate.backend = backend_name(record.backend, names);
  candidate.load = record.load / kQuartersPerRequest;
  candidate.latency = unless_zero<microseconds>(record.latency_us);
  candidate.weight = record.weight_q16 / kQ16;
  candidate.breaker = static_cast<weir_breaker_state>(breaker);
  candidate.hot = record.load > pick.rif_limit;
  candidate.picked = record.backend == pick.head.backend;
  return candidate;
}

Event decode_record(const weir_event_pick& record, const EventNames& names) {
  PickEvent event;
  event.head = decode_head(record.head, names);
  if (record.first.backend != WEIR_NO_BACKEND) {
    event.candidates.push_back(decode_candidate(record.first, record.first_breaker, record, names));
  }
  if (record.second.backend != WEIR_NO_BACKEND && record.second.backend != record.first.backend) {
    event.candidates.push_back(
        decode_candidate(record.second, record.second_breaker, record, names));
  }
  event.policy = static_cast<weir_policy>(record.policy);
  event.rule = static_cast<weir_rule>(record.rule);
  event.rif_limit = record.rif_limit / kQuartersPerRequest;
  event.panic = record.panic != 0;
  event.backup = record.backup != 0;
  event.probe = record.probe != 0;
  return event;
}

Event decode_record(const weir_event_request& record, const EventNames& names) {
  RequestEvent event;
  event.head = decode_head(record.head, names);
  event.ttfb = to_ns(record.ttfb_ns);
  event.sequence = record.sequence;
  event.flags = record.flags;
  return event;
}

template <typename T>
std::optional<Event> decode_as(std::span<const std::byte> bytes, const EventNames& names) {
  const auto record = copy_as<T>(bytes);
  if (!record) return std::nullopt;
  return decode_record(*record, names);
}

}  // namespace

std::optional<Event> decode_event(std::span<const std::byte> record, const EventNames& names) {
  const auto head = copy_as<weir_event_head>(record);
  if (!head) return std::nullopt;
  switch (head->kind) {
    case WEIR_EVENT_CLOSE:
      return decode_as<weir_event_close>(record, names);
    case WEIR_EVENT_FAILURE:
      return decode_as<weir_event_failure>(record, names);
    case WEIR_EVENT_BREAKER:
      return decode_as<weir_event_breaker>(record, names);
    case WEIR_EVENT_PICK:
      return decode_as<weir_event_pick>(record, names);
    case WEIR_EVENT_REQUEST:
      return decode_as<weir_event_request>(record, names);
    default:
      return std::nullopt;
  }
}

}  // namespace weir::kernel
