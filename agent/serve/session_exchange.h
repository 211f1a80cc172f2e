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

/// A request that its session and its exchange share. Only the I/O thread touches it, but for
/// `unsent_bytes`.
struct SharedRequest : Request {
  std::atomic<std::size_t> unsent_bytes{0};  ///< of the answer: what the client has not taken
};

/// `serial` numbers `request` (not null) within its session, which may hold so much of its answer.
[[nodiscard]] std::shared_ptr<Exchange> make_session_exchange(
    std::weak_ptr<IoThread> io, std::weak_ptr<HttpSession> session, std::uint64_t serial,
    std::shared_ptr<SharedRequest> request, std::uint64_t max_unsent_bytes);

}  // namespace weir::serve
