// SPDX-License-Identifier: Apache-2.0
//
// What the kernel tells of single connections, requests and picks: the records of weir_event with
// their indexes resolved to names.
//
// Thread-safety: values; an EventSource belongs to one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "weir/abi.h"

namespace weir::kernel {

struct EventHead {
  TimePoint time{};
  std::string service;  ///< name of the pool; of a backup pool "<service>.backup"
  /// Its address; "#<index>" when its record was given up in the meantime; unset: no backend.
  std::optional<std::string> backend;
  std::uint64_t cookie = 0;  ///< of the socket, as SO_COOKIE shows it; 0 for a breaker
};

/// An established connection is over.
struct CloseEvent {
  EventHead head;
  std::chrono::nanoseconds open{};  ///< SYN to end
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::uint32_t requests = 0;
  std::uint32_t retransmits = 0;
  std::optional<std::chrono::microseconds> min_rtt;
  std::optional<int> error;  ///< errno that the socket ended with
  std::uint32_t flags = 0;   ///< enum weir_sk_flags
};

/// A connect failed.
struct FailureEvent {
  EventHead head;
  std::optional<int> error;  ///< errno; unset: given up by the client
  std::uint32_t consecutive = 0;
};

/// A breaker changed its state.
struct BreakerEvent {
  EventHead head;
  weir_breaker_state from = WEIR_BREAKER_CLOSED;
  weir_breaker_state to = WEIR_BREAKER_CLOSED;
  std::uint32_t level = 0;                        ///< relapses since it was last closed
  std::optional<std::chrono::milliseconds> open;  ///< for how long; only of an opening
};

/// A backend that a pick looked at, as it was then.
struct Candidate {
  std::string backend;  ///< as in EventHead
  double load = 0;      ///< requests
  std::optional<std::chrono::microseconds> latency;
  double weight = 0;
  weir_breaker_state breaker = WEIR_BREAKER_CLOSED;
  bool hot = false;  ///< load above rif_limit
  bool picked = false;
};

/// A pick. The head's service is the one connected to, also when the backup pool served it.
struct PickEvent {
  EventHead head;
  std::vector<Candidate> candidates;  ///< none to two, in the order in which they were drawn
  weir_policy policy = WEIR_POLICY_PREQUAL;
  weir_rule rule = WEIR_RULE_NONE;
  double rif_limit = 0;  ///< requests
  bool panic = false;    ///< breakers were ignored
  bool backup = false;   ///< from the backup pool
  bool probe = false;    ///< took a token of a half-open breaker
};

/// The first byte of a response came.
struct RequestEvent {
  EventHead head;
  std::chrono::nanoseconds ttfb{};
  std::uint32_t sequence = 0;  ///< 1: the first request of its connection
  std::uint32_t flags = 0;     ///< enum weir_sk_flags
};

using Event = std::variant<CloseEvent, FailureEvent, BreakerEvent, PickEvent, RequestEvent>;

[[nodiscard]] inline const EventHead& head_of(const Event& event) {
  return std::visit([](const auto& each) -> const EventHead& { return each.head; }, event);
}

/// What a watcher was not told, since it began.
struct EventLosses {
  std::uint64_t records = 0;             ///< the buffer was full
  std::chrono::nanoseconds unwatched{};  ///< its lease had run out: it was held up for too long
};

/// The seam between weir_event and those who watch.
class EventSource {
 public:
  virtual ~EventSource() = default;
  /// What came since the last call, oldest first; a bounded number at once. Never waits.
  virtual Result<std::vector<Event>> read() = 0;
  /// Keeps the watch alive; due every second. kUnavailable when there is nothing to watch any more.
  virtual Status renew() = 0;
  virtual Result<EventLosses> losses() = 0;
};

}  // namespace weir::kernel
