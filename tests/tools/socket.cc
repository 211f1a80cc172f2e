// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace weir::tools {
namespace {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

SocketAddress to_kernel(const Endpoint& endpoint) {
  SocketAddress address;
  if (endpoint.is_v4()) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address.storage);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(endpoint.port);
    std::copy(endpoint.ip.begin() + 12, endpoint.ip.end(),
              reinterpret_cast<std::uint8_t*>(&v4.sin_addr));
    address.length = sizeof(sockaddr_in);
  } else {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address.storage);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(endpoint.port);
    std::copy(endpoint.ip.begin(), endpoint.ip.end(), v6.sin6_addr.s6_addr);
    address.length = sizeof(sockaddr_in6);
  }
  return address;
}

Result<UniqueFd> tcp_socket(const Endpoint& endpoint) {
  UniqueFd fd(::socket(endpoint.is_v4() ? AF_INET : AF_INET6,
                       SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.open()) return os_error(errno, "socket");
  return fd;
}

}  // namespace

Result<UniqueFd> listen_on(const Endpoint& at) {
  auto fd = tcp_socket(at);
  if (!fd) return fd;
  const int on = 1;
  ::setsockopt(fd->get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const SocketAddress address = to_kernel(at);
  if (::bind(fd->get(), address.get(), address.length) != 0) {
    return os_error(errno, "bind " + at.to_string());
  }
  if (::listen(fd->get(), SOMAXCONN) != 0) return os_error(errno, "listen " + at.to_string());
  return fd;
}

Result<Endpoint> local_endpoint(const UniqueFd& socket) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (::getsockname(socket.get(), address.get(), &address.length) != 0) {
    return os_error(errno, "getsockname");
  }
  Endpoint endpoint;
  if (address.storage.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address.storage);
    endpoint.ip[10] = endpoint.ip[11] = 0xff;
    const auto* const bytes = reinterpret_cast<const std::uint8_t*>(&v4.sin_addr);
    std::copy(bytes, bytes + 4, endpoint.ip.begin() + 12);
    endpoint.port = ntohs(v4.sin_port);
  } else {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address.storage);
    std::copy(v6.sin6_addr.s6_addr, v6.sin6_addr.s6_addr + 16, endpoint.ip.begin());
    endpoint.port = ntohs(v6.sin6_port);
  }
  return endpoint;
}

Result<UniqueFd> start_connect(const Endpoint& to) {
  auto fd = tcp_socket(to);
  if (!fd) return fd;
  set_no_delay(fd->get());
  const SocketAddress address = to_kernel(to);
  if (::connect(fd->get(), address.get(), address.length) != 0 && errno != EINPROGRESS) {
    return os_error(errno, "connect " + to.to_string());
  }
  return fd;
}

Status connect_error(const UniqueFd& socket) {
  int error = 0;
  socklen_t length = sizeof error;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  if (error != 0) return os_error(error, "connect");
  return {};
}

void set_no_delay(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace weir::tools
