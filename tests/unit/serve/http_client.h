// SPDX-License-Identifier: Apache-2.0
//
// A blocking HTTP client over a plain socket: what it sends and what it got are visible byte by
// byte. Every wait ends after five seconds.
//
// Thread-safety: belongs to one thread.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "agent/base/endpoint.h"

namespace weir::serve {

struct HttpReply {
  int status = 0;                              ///< 0: the connection ended before a whole reply
  std::map<std::string, std::string> headers;  ///< names as sent
  std::string body;

  [[nodiscard]] std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

class HttpClient {
 public:
  /// `receive_buffer_bytes` 0 leaves the kernel's default.
  explicit HttpClient(const Endpoint& server, int receive_buffer_bytes = 0)
      : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval limit{.tv_sec = 5, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (receive_buffer_bytes > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connect_errno_ =
        connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  }
  ~HttpClient() { hang_up(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// 0: connected.
  [[nodiscard]] int connect_errno() const { return connect_errno_; }

  void hang_up() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

  /// Closes with a reset instead of an orderly end.
  void reset() {
    const linger none{.l_onoff = 1, .l_linger = 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
    hang_up();
  }

  /// Nothing more will be sent; what was is still to be answered.
  void finish_sending() { shutdown(fd_, SHUT_WR); }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  HttpReply get(const std::string& path) {
    send("GET " + path + " HTTP/1.1\r\nHost: t\r\n\r\n");
    return read_reply();
  }

  void send_post(const std::string& path, const std::string& body, const std::string& more = "") {
    send("POST " + path + " HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n" + more +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  }
  HttpReply post(const std::string& path, const std::string& body, const std::string& more = "") {
    send_post(path, body, more);
    return read_reply();
  }

  /// The next whole reply, chunks joined. `head_only`: the reply to a HEAD request.
  HttpReply read_reply(bool head_only = false) {
    HttpReply reply;
    const std::string head = read_head();
    if (head.empty()) return reply;
    std::size_t line = head.find("\r\n");
    const int status = std::atoi(head.c_str() + 9);
    while (line + 2 < head.size()) {
      const std::size_t end = head.find("\r\n", line + 2);
      const std::string field = head.substr(line + 2, end - line - 2);
      const std::size_t colon = field.find(": ");
      if (colon != std::string::npos)
        reply.headers[field.substr(0, colon)] = field.substr(colon + 2);
      line = end;
    }
    if (reply.header("Transfer-Encoding") == "chunked") {
      for (;;) {
        const std::size_t size = std::strtoul(take_line().c_str(), nullptr, 16);
        if (!fill(size + 2)) return reply;
        reply.body += buffer_.substr(0, size);
        buffer_.erase(0, size + 2);
        if (size == 0) break;
      }
    } else if (!head_only && reply.headers.contains("Content-Length")) {
      const std::size_t size = std::strtoul(reply.header("Content-Length").c_str(), nullptr, 10);
      if (!fill(size)) return reply;
      reply.body = buffer_.substr(0, size);
      buffer_.erase(0, size);
    }
    reply.status = status;
    return reply;
  }

  /// Head of the next reply with its blank line; the body stays unread.
  std::string read_head() {
    std::size_t end = 0;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (!receive()) return "";
    }
    std::string head = buffer_.substr(0, end + 4);
    buffer_.erase(0, end + 4);
    return head;
  }

  /// Everything until the server closes; sets `closed` when it did so within the limit.
  std::string read_to_end(bool* closed = nullptr) {
    while (receive()) {
    }
    if (closed != nullptr) *closed = !timed_out_;
    return std::exchange(buffer_, {});
  }

 private:
  bool receive() {
    char bytes[16 * 1024];
    const ssize_t count = recv(fd_, bytes, sizeof(bytes), 0);
    timed_out_ = count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    if (count <= 0) return false;
    buffer_.append(bytes, static_cast<std::size_t>(count));
    return true;
  }
  bool fill(std::size_t size) {
    while (buffer_.size() < size) {
      if (!receive()) return false;
    }
    return true;
  }
  std::string take_line() {
    std::size_t end = 0;
    while ((end = buffer_.find("\r\n")) == std::string::npos) {
      if (!receive()) return "";
    }
    std::string line = buffer_.substr(0, end);
    buffer_.erase(0, end + 2);
    return line;
  }

  int fd_;
  int connect_errno_ = 0;
  bool timed_out_ = false;
  std::string buffer_;
};

}  // namespace weir::serve
