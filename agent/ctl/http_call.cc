// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/http_call.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

namespace weir::ctl {
namespace {

constexpr std::size_t kMostAnswerBytes = std::size_t{64} << 20;

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

std::string shown(const HttpTarget& target) {
  return fmt::format(
      "http://{}:{}",
      target.host.find(':') == std::string::npos ? target.host : "[" + target.host + "]",
      target.port);
}

Error unreachable(const HttpTarget& target, std::string_view why) {
  return make_error(Code::kUnavailable,
                    fmt::format("{} does not answer: {}; is weir-agent running there? --url names "
                                "its serve.http",
                                shown(target), why));
}

Result<Socket> connect_to(const HttpTarget& target, std::chrono::seconds timeout) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int failed = getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &list);
  if (failed != 0) return unreachable(target, gai_strerror(failed));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, &freeaddrinfo);
  int err = ECONNREFUSED;
  for (const addrinfo* at = list; at != nullptr; at = at->ai_next) {
    Socket socket(::socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol));
    if (socket.fd() < 0) {
      err = errno;
      continue;
    }
    const timeval limit{.tv_sec = timeout.count(), .tv_usec = 0};
    setsockopt(socket.fd(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(socket.fd(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (::connect(socket.fd(), at->ai_addr, at->ai_addrlen) == 0) return socket;
    err = errno;
  }
  return unreachable(target, std::strerror(err));
}

/// Of HTTP/1.0, which ends an answer with its connection.
Result<HttpAnswer> parse(const HttpTarget& target, const std::string& text) {
  const std::size_t blank = text.find("\r\n\r\n");
  const std::size_t space = text.find(' ');
  HttpAnswer answer;
  if (!text.starts_with("HTTP/1.") || blank == std::string::npos || space > blank ||
      std::from_chars(text.data() + space + 1, text.data() + blank, answer.status).ec !=
          std::errc{}) {
    return unreachable(target, "what came is no HTTP answer");
  }
  answer.body = text.substr(blank + 4);
  return answer;
}

}  // namespace

Result<HttpTarget> parse_http_url(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  std::string_view rest = url;
  if (rest.starts_with(kScheme)) rest.remove_prefix(kScheme.size());
  while (rest.ends_with('/')) rest.remove_suffix(1);
  const auto wrong = [&] {
    return make_error(Code::kInvalidArgument,
                      fmt::format("--url {}: must be http://HOST:PORT", url));
  };
  HttpTarget target{"", "8080"};
  std::size_t colon = std::string_view::npos;
  if (rest.starts_with('[')) {
    const std::size_t end = rest.find(']');
    if (end == std::string_view::npos) return wrong();
    target.host = rest.substr(1, end - 1);
    if (end + 1 < rest.size()) colon = end + 1;
  } else {
    colon = rest.find(':');
    target.host = rest.substr(0, colon);
  }
  if (colon != std::string_view::npos) {
    target.port = rest.substr(colon + 1);
    unsigned port = 0;
    const auto [end, error] =
        std::from_chars(target.port.data(), target.port.data() + target.port.size(), port);
    if (rest[colon] != ':' || error != std::errc{} ||
        end != target.port.data() + target.port.size() || port == 0 || port > 65535) {
      return wrong();
    }
  }
  if (target.host.empty() || target.host.find('/') != std::string::npos) return wrong();
  return target;
}

Result<HttpAnswer> http_post(const HttpTarget& target, const std::string& path,
                             const std::string& body, std::chrono::seconds timeout) {
  auto socket = connect_to(target, timeout);
  if (!socket) return std::move(socket).error();
  const std::string request = fmt::format(
      "POST {} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      path, target.host, body.size(), body);
  std::string_view left = request;
  while (!left.empty()) {
    const ssize_t sent = ::send(socket->fd(), left.data(), left.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return unreachable(target, std::strerror(errno));
    left.remove_prefix(static_cast<std::size_t>(sent));
  }
  std::string text;
  std::array<char, 16384> piece{};
  while (text.size() < kMostAnswerBytes) {
    const ssize_t got = ::recv(socket->fd(), piece.data(), piece.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return unreachable(target, errno == EAGAIN ? "no answer in time" : std::strerror(errno));
    }
    if (got == 0) break;
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
  return parse(target, text);
}

}  // namespace weir::ctl
