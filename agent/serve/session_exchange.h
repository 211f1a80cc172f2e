// SPDX-License-Identifier: Apache-2.0
//
// The exchange that handlers hold. It reaches its session only on the I/O thread, and keeps neither
// alive: an engine may hold it longer than the server lives.
//
// Thread-safety: as Exchange.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "agent/serve/exchange.h"

namespace weir::serve {

struct IoThread;
class HttpSession;

/// How much of its answers a session has not sent yet, and how much it may hold.
struct StreamRoom {
  std::shared_ptr<const std::atomic<std::size_t>> unsent;
  std::uint64_t max_bytes = 0;
};

/// `serial` numbers the request within its session, which shares `request` (not null) with it; only
/// the I/O thread touches that.
[[nodiscard]] std::shared_ptr<Exchange> make_session_exchange(std::weak_ptr<IoThread> io,
                                                              std::weak_ptr<HttpSession> session,
                                                              std::uint64_t serial,
                                                              std::shared_ptr<Request> request,
                                                              StreamRoom room);

}  // namespace weir::serve
