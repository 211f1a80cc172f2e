// SPDX-License-Identifier: Apache-2.0
//
// The connection of a client: a TCP socket that never blocks.
//
// Thread-compatible. Owns the descriptor.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

namespace weir::serve {

class ClientSocket {
 public:
  enum class Outcome {
    kDone,        ///< `bytes`, at least one
    kWouldBlock,  ///< not now
    kEnded        ///< the client sends no more, or the connection is broken
  };
  struct Transfer {
    Outcome outcome = Outcome::kDone;
    std::size_t bytes = 0;
  };

  /// Takes over `descriptor`, a connected socket in non-blocking mode.
  explicit ClientSocket(int descriptor);
  ClientSocket(ClientSocket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  ClientSocket& operator=(ClientSocket&&) = delete;
  ~ClientSocket() { close(); }

  [[nodiscard]] int descriptor() const { return descriptor_; }

  [[nodiscard]] Transfer receive(std::span<char> into);
  [[nodiscard]] Transfer send(std::string_view bytes);

  /// Says that nothing more comes; false when the connection is broken.
  [[nodiscard]] bool end_sending();
  /// close() will drop what is not sent yet, and tell the client so with a reset.
  void reset_on_close();
  /// Again to no effect.
  void close();

  /// Whether the client is on this host.
  [[nodiscard]] bool from_loopback() const;

 private:
  int descriptor_;  ///< -1: closed
};

}  // namespace weir::serve
