// SPDX-License-Identifier: Apache-2.0
//
// One HTTP request and the way to answer it, at once or later, in one piece or as a stream.
//
// Thread-safety: respond(), begin_stream(), write(), end_stream() and post() may be called from any
// thread, one at a time; they take effect on the session's I/O thread in the order of the calls.
// on_abort() only from the handler itself.
// Ownership: shared by the handler and whatever it started. It keeps neither socket nor server
// alive: after both are gone every call is a no-op. Dropping the last reference to an exchange that
// was not answered answers it with 500.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "agent/schedule/task.h"
#include "agent/serve/http_message.h"

namespace weir::serve {

class Exchange {
 public:
  virtual ~Exchange() = default;

  [[nodiscard]] virtual const Request& request() const = 0;

  /// Moves the body out of the request, so that it goes as soon as it is parsed. Only from the
  /// handler.
  [[nodiscard]] virtual std::string take_body() = 0;

  /// The whole answer. Exactly one of respond() and begin_stream(), once.
  virtual void respond(Response response) = 0;

  /// Sends the head of `head` (its body is ignored); pieces follow until end_stream().
  virtual void begin_stream(Response head) = 0;
  virtual void write(std::string piece) = 0;
  /// `complete` false: the stream broke off; the connection is closed behind what was written.
  virtual void end_stream(bool complete) = 0;

  /// Any thread. False while the client has not taken half of what a stream may hold
  /// (max_stream_bytes), `coming_bytes` included that will be written soon.
  [[nodiscard]] virtual bool wants_more(std::size_t coming_bytes) const = 0;

  /// `callback` runs at most once, on the I/O thread, if the client goes away (or is cut for not
  /// reading) before the answer is complete.
  virtual void on_abort(std::function<void()> callback) = 0;

  /// Runs `work` on the I/O thread, so that it need not run on the caller's.
  virtual void post(schedule::Task work) = 0;
};

}  // namespace weir::serve
