// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/mailbox.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace weir::serve {

void Mailbox::post(schedule::Task work) {
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
  for (schedule::Task& work : running_) std::move(work)();
  running_.clear();
}

}  // namespace weir::serve
