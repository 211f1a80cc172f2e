// SPDX-License-Identifier: Apache-2.0
//
// What the tests of weir_event share: a watcher, and single connects whose records are looked at.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/kernel/event_reader.h"
#include "tests/bpf/data_plane_fixture.h"

namespace weir::kernel {

constexpr char kWatchedService[] = "10.96.0.10:80";

/// One connect() of an application, closed at once.
struct Connected {
  int error = -1;
  std::uint64_t cookie = 0;
};

inline std::uint64_t cookie_of(int fd) {
  std::uint64_t cookie = 0;
  socklen_t bytes = sizeof(cookie);
  (void)getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &bytes);
  return cookie;
}

class WatchTest : public DataPlaneTest {
 protected:
  void watch(const Watch& wanted) {
    reader_ = nullptr;  // one watcher at a time
    auto reader = EventReader::open(sandbox_.pin_root(), wanted);
    ASSERT_TRUE(reader.ok()) << reader.error().message;
    reader_ = std::move(*reader);
  }

  Connected connect_once(const char* to = kWatchedService) {
    return run_in<Connected>(sandbox_.cgroup(), [&] {
      Connected outcome;
      const int fd = connect_to(endpoint(to), false, &outcome.error);
      outcome.cookie = cookie_of(fd);
      close(fd);
      return outcome;
    });
  }

  /// An application that keeps one connection to `to` open and sends nothing: a load of 1.
  std::unique_ptr<Application> hold(const Endpoint& to) {
    auto application = std::make_unique<Application>(sandbox_.cgroup(), [&](int out) {
      int error = 0;
      connect_to(to, false, &error);
      (void)!write(out, &error, sizeof(error));
      pause();
    });
    int error = -1;
    EXPECT_TRUE(application->read(&error, sizeof(error)));
    EXPECT_EQ(error, 0);
    return application;
  }

  /// Everything that is there, of all kinds.
  std::vector<Event> events() {
    std::vector<Event> all;
    for (;;) {
      auto batch = reader_->read();
      EXPECT_TRUE(batch.ok()) << batch.error().message;
      if (!batch.ok() || batch->empty()) return all;
      for (Event& event : *batch) all.push_back(std::move(event));
    }
  }

  template <typename T>
  static std::vector<T> only(const std::vector<Event>& events) {
    std::vector<T> chosen;
    for (const Event& event : events) {
      if (const T* const each = std::get_if<T>(&event)) chosen.push_back(*each);
    }
    return chosen;
  }

  std::unique_ptr<EventReader> reader_;
};

}  // namespace weir::kernel
