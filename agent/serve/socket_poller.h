// SPDX-License-Identifier: Apache-2.0
//
// Tells the owners of sockets what has become possible on these. A socket is registered once for as
// long as it is open; Asio's waits would cost a system call each, which is one for every request.
//
// Thread-safety: belongs to the thread of its context. Owns its descriptor; sockets and watchers
// are the callers'.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <cstdint>

#include "agent/base/result.h"

namespace weir::serve {

class SocketPoller {
 public:
  class Watcher {
   public:
    /// `events` of epoll(7) have come since the last call, EPOLLIN and EPOLLOUT among them: nothing
    /// tells a second time of what is left to be read.
    virtual void on_socket(std::uint32_t events) = 0;

   protected:
    ~Watcher() = default;
  };

  /// `context` must outlive the poller.
  explicit SocketPoller(boost::asio::io_context& context) : events_(context) {}
  SocketPoller(const SocketPoller&) = delete;
  SocketPoller& operator=(const SocketPoller&) = delete;

  /// Once, before anything else. From now on the context has something to wait for.
  Status open();
  void close();

  /// False when the kernel has no room for it. The first call of `watcher` tells what is possible
  /// already. It must live until the handlers of the context that are due at forget() have run.
  [[nodiscard]] bool watch(int socket, Watcher& watcher);
  /// Before the socket is closed.
  void forget(int socket);

 private:
  void wait();
  void serve();
  /// Of how many sockets it told.
  int tell();

  boost::asio::posix::basic_stream_descriptor<boost::asio::io_context::executor_type> events_;
};

}  // namespace weir::serve
