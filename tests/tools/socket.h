// SPDX-License-Identifier: Apache-2.0
//
// TCP sockets for the load tools: an owning descriptor and the few calls both tools make.
//
// Thread-safe: functions without state; UniqueFd is thread-compatible. Failures come back with the
// errno of the call and the endpoint concerned.
#pragma once

#include <unistd.h>

#include <utility>

#include "agent/base/endpoint.h"
#include "agent/base/result.h"

namespace weir::tools {

/// Owns one descriptor and closes it.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, kClosed)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool open() const { return fd_ != kClosed; }
  void reset() {
    if (open()) ::close(std::exchange(fd_, kClosed));
  }

 private:
  static constexpr int kClosed = -1;  // what the kernel itself returns for "no descriptor"
  int fd_ = kClosed;
};

/// A non-blocking listener with SO_REUSEADDR and the longest backlog the kernel grants.
Result<UniqueFd> listen_on(const Endpoint& at);

/// The address a listener got, with the port that the kernel chose.
Result<Endpoint> local_endpoint(const UniqueFd& socket);

/// A non-blocking TCP_NODELAY socket whose connection to `to` is under way or established: writable
/// says that it ended one way or the other, connect_error() which.
Result<UniqueFd> start_connect(const Endpoint& to);

/// Success when the connection that start_connect() began is established.
Status connect_error(const UniqueFd& socket);

/// Sends small writes at once; both tools measure time to first byte.
void set_no_delay(int fd);

}  // namespace weir::tools
