// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/client_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace weir::serve {
namespace {

// What the kernel takes beyond what the client's window has room for. Its send buffer grows to
// megabytes; what lies there unread would count as sent.
constexpr int kUnsentBytesInKernel = 64 * 1024;

/// What came of `call`, which returns as recv() and send() do.
template <typename Call>
ClientSocket::Transfer transfer(Call call) {
  using Outcome = ClientSocket::Outcome;
  ssize_t count = 0;
  do {
    count = call();
  } while (count < 0 && errno == EINTR);
  if (count > 0) return {Outcome::kDone, static_cast<std::size_t>(count)};
  return {count < 0 && errno == EAGAIN ? Outcome::kWouldBlock : Outcome::kEnded, 0};
}

}  // namespace

// None of the options is refused by a live connection, and the first read tells of a dead one.
ClientSocket::ClientSocket(int descriptor) : descriptor_(descriptor) {
  const int on = 1;
  setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(descriptor_, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kUnsentBytesInKernel,
             sizeof kUnsentBytesInKernel);
}

ClientSocket::Transfer ClientSocket::receive(std::span<char> into) {
  return transfer([&] { return ::recv(descriptor_, into.data(), into.size(), 0); });
}

ClientSocket::Transfer ClientSocket::send(std::string_view bytes) {
  return transfer([&] { return ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL); });
}

bool ClientSocket::end_sending() { return ::shutdown(descriptor_, SHUT_WR) == 0; }

void ClientSocket::reset_on_close() {
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void ClientSocket::close() {
  if (const int open = std::exchange(descriptor_, -1); open >= 0) ::close(open);
}

bool ClientSocket::from_loopback() const {
  sockaddr_storage storage{};
  socklen_t bytes = sizeof storage;
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  if (getpeername(descriptor_, address, &bytes) != 0) return false;
  const auto loopback_v4 = [](std::uint32_t network_order) {
    return ntohl(network_order) >> 24U == IN_LOOPBACKNET;
  };
  if (address->sa_family == AF_INET) {
    return loopback_v4(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr);
  }
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&v6)) return loopback_v4(v6.s6_addr32[3]);
  return IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace weir::serve
