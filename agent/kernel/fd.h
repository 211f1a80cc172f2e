// SPDX-License-Identifier: Apache-2.0
//
// A file descriptor that closes itself.
//
// Thread-safety: one thread; move-only.
#pragma once

#include <unistd.h>

#include <utility>

namespace weir::kernel {

class Fd {
 public:
  Fd() = default;
  /// Takes ownership; a negative `fd` (a failed call) is an invalid Fd.
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }

  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_ = -1;
};

}  // namespace weir::kernel
