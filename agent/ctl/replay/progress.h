// SPDX-License-Identifier: Apache-2.0
//
// How far a replay has come, on the standard error: a bar that is drawn anew on a terminal, a line
// every five seconds elsewhere.
//
// Thread-compatible: one thread at a time.
#pragma once

#include <string>

#include "agent/ctl/replay/replay.h"

namespace weir::replay {

/// "42 %  4.2 s  1234 of 3000  ok 1200  refused 20  errors 0  dropped 0  in flight 14"; with a bar
/// of `bar_width` before it unless that is 0.
[[nodiscard]] std::string progress_text(const ProgressReading& reading, std::size_t bar_width);

class ConsoleProgress final : public ProgressSink {
 public:
  enum class Style { kBar, kLines, kQuiet };
  explicit ConsoleProgress(Style style) : style_(style) {}
  /// Ends the line of the bar.
  ~ConsoleProgress() override;
  ConsoleProgress(const ConsoleProgress&) = delete;
  ConsoleProgress& operator=(const ConsoleProgress&) = delete;

  [[nodiscard]] Duration period() const override;
  void show(const ProgressReading& reading) override;

 private:
  const Style style_;
  std::size_t drawn_ = 0;  ///< characters of the bar's line
};

}  // namespace weir::replay
