// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/socket_poller.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <span>

namespace weir::serve {
namespace {

// Told of in one go, while what other threads have left for this one waits: answers, mostly. With
// 128 as many requests more were under way, and their memory no longer in the cache.
constexpr int kMostAtOnce = 16;

}  // namespace

Status SocketPoller::open() {
  const int descriptor = epoll_create1(EPOLL_CLOEXEC);
  if (descriptor < 0) return os_error(errno, "epoll_create1");
  boost::system::error_code error;
  events_.assign(descriptor, error);
  if (error) {
    ::close(descriptor);
    return os_error(error.value(), "epoll_ctl");
  }
  wait();
  return {};
}

void SocketPoller::close() {
  boost::system::error_code ignored;
  events_.close(ignored);
}

bool SocketPoller::watch(int socket, Watcher& watcher) {
  epoll_event wanted{};
  wanted.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  wanted.data.ptr = &watcher;
  return epoll_ctl(events_.native_handle(), EPOLL_CTL_ADD, socket, &wanted) == 0;
}

// Closing would do it too, unless a child that was just forked has the socket as well.
void SocketPoller::forget(int socket) {
  epoll_ctl(events_.native_handle(), EPOLL_CTL_DEL, socket, nullptr);
}

void SocketPoller::wait() {
  events_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                     [this](const boost::system::error_code& error) {
                       if (!error) serve();  // else: closed
                     });
}

// To wait costs a system call and a look at sockets that are ready; while there are more of these
// it is enough to come again behind what is due besides.
void SocketPoller::serve() {
  if (tell() < kMostAtOnce) return wait();
  boost::asio::post(events_.get_executor(), [this] { serve(); });
}

int SocketPoller::tell() {
  std::array<epoll_event, kMostAtOnce> events;  // not initialised: it need not be
  const int count = epoll_wait(events_.native_handle(), events.data(), kMostAtOnce, 0);
  for (const epoll_event& event :
       std::span(events).first(static_cast<std::size_t>(std::max(count, 0)))) {
    static_cast<Watcher*>(event.data.ptr)->on_socket(event.events);
  }
  return count;
}

}  // namespace weir::serve
