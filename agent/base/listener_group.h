// SPDX-License-Identifier: Apache-2.0
//
// The listeners of one port, and what the kernel is told about each so that it can choose among
// them. The seam between agent/serve, which owns the sockets, and agent/kernel, which knows the
// kernel's side of it.
//
// Thread-safety: of ListenerGroup every method may be called from any thread; a ListenerSeat
// belongs to one thread, but for read(), and for its destruction when that thread is gone.
#pragma once

#include <cstdint>
#include <memory>

#include "agent/base/result.h"

namespace weir {

struct ListenerReading {
  std::uint64_t depth = 0;  ///< connections not accepted yet, and requests in progress
  std::uint64_t chosen = 0;
  std::uint64_t taken_over = 0;  ///< of these: from listeners that closed
};

/// The place of one listener in its group. Destruction leaves it.
class ListenerSeat {
 public:
  virtual ~ListenerSeat() = default;

  /// Gives the place up: the listener gets no new connections, the other calls have no effect any
  /// more. Must come before the socket is closed.
  virtual void leave() = 0;

  /// One connection was accepted.
  virtual void accepted() = 0;
  /// Requests that this thread has begun to read and not answered.
  virtual void set_waiting(std::uint32_t requests) = 0;
  /// How many connections the socket says are queued. To be called a few times a second; what was
  /// sent here and never came (a handshake given up, a flood) is forgotten about a second later.
  virtual void set_queued(std::uint32_t connections) = 0;

  [[nodiscard]] virtual ListenerReading read() const = 0;
};

class ListenerGroup {
 public:
  virtual ~ListenerGroup() = default;

  /// Takes a listening SO_REUSEPORT socket in. kResourceExhausted when no place is left.
  virtual Result<std::unique_ptr<ListenerSeat>> join(int listening_socket) = 0;

  /// None of the seats taken here gets new connections from now on.
  virtual void leave() = 0;
};

}  // namespace weir
