// SPDX-License-Identifier: Apache-2.0
//
// Work that other threads leave for an I/O thread. Who leaves the first piece wakes the thread; all
// that has come when it looks is done in one go, so that the answers of a batch cost one wake-up.
//
// Thread-safety: post() from any thread; the work runs on the thread of `context`, in the order of
// the calls. Never lost while the context runs; afterwards it is dropped with the mailbox.
#pragma once

#include <boost/asio/io_context.hpp>
#include <mutex>
#include <vector>

#include "agent/schedule/task.h"

namespace weir::serve {

class Mailbox {
 public:
  /// `context` must outlive the mailbox, and must not run any more when that is destroyed.
  explicit Mailbox(boost::asio::io_context& context) : context_(context) {}
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  void post(schedule::Task work);

 private:
  void run();

  boost::asio::io_context& context_;
  std::mutex mutex_;
  std::vector<schedule::Task> left_;     ///< guarded by mutex_
  std::vector<schedule::Task> running_;  ///< the I/O thread's
};

}  // namespace weir::serve
