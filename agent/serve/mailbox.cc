// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/mailbox.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace weir::serve {

void Mailbox::post(std::function<void()> work) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = left_.empty();
    left_.push_back(std::move(work));
  }
  if (first) boost::asio::post(context_, [this] { run(); });
}

void Mailbox::run() {
  {
    const std::lock_guard lock(mutex_);
    running_.swap(left_);
  }
  // What a piece holds goes with it, not with the last of them.
  for (std::function<void()>& work : running_) std::exchange(work, nullptr)();
  running_.clear();
}

}  // namespace weir::serve
