// SPDX-License-Identifier: Apache-2.0
//
// Says in the log that something began to fail, and that it works again, instead of the same line
// ten times a second.
//
// Thread-safety: belongs to one thread.
#pragma once

#include <spdlog/spdlog.h>

#include <string>
#include <string_view>

#include "agent/base/result.h"

namespace weir::balance {

class Complaint {
 public:
  /// `what` must outlive it.
  explicit Complaint(std::string_view what) : what_(what) {}

  /// The outcome of one more attempt.
  void update(const Status& status) {
    const std::string problem = status ? "" : status.error().message;
    if (problem == last_) return;
    if (status) {
      spdlog::info("{} recovered", what_);
    } else {
      spdlog::error("{} failed error=\"{}\"; the kernel goes on as it was told last", what_,
                    problem);
    }
    last_ = problem;
  }

 private:
  const std::string_view what_;
  std::string last_;  ///< empty: it works
};

}  // namespace weir::balance
