// SPDX-License-Identifier: Apache-2.0
//
// Which of the connections that the kernel sent to a listener are not coming: those that were
// neither accepted nor seen in its queue for a while.
//
// Thread-safety: belongs to one thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace weir::kernel {

class BacklogStrays {
 public:
  /// `outstanding`: chosen minus accepted; `queued`: what the socket's queue holds, read before it.
  /// Returns what to subtract from `outstanding`.
  ///
  /// What exceeds the queue is a handshake under way, until it exceeded it in kWindow readings in a
  /// row. A queue longer than believed is the truth at once: everything queued was chosen before.
  std::int64_t update(std::int64_t outstanding, std::uint32_t queued) {
    const std::int64_t excess = outstanding - strays_ - static_cast<std::int64_t>(queued);
    recent_[next_] = excess;
    next_ = (next_ + 1) % kWindow;
    filled_ = std::min(filled_ + 1, kWindow);
    const std::int64_t least = *std::min_element(recent_.begin(), recent_.begin() + filled_);
    if (excess < 0 || (filled_ == kWindow && least > 0)) {
      strays_ += excess < 0 ? excess : least;
      filled_ = next_ = 0;
    }
    return strays_;
  }

 private:
  static constexpr std::size_t kWindow = 4;

  std::int64_t strays_ = 0;
  std::array<std::int64_t, kWindow> recent_{};
  std::size_t next_ = 0;
  std::size_t filled_ = 0;
};

}  // namespace weir::kernel
