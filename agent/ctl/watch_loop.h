// SPDX-License-Identifier: Apache-2.0
//
// The loop of the commands that watch: read what the kernel wrote, print it at once, keep the watch
// alive, until somebody says stop.
//
// Thread-safety: one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/kernel/event.h"
#include "agent/kernel/fd.h"

namespace weir::ctl {

using WallTime = std::chrono::system_clock::time_point;

/// Says when to stop; the seam for signals.
class Pause {
 public:
  virtual ~Pause() = default;
  /// Waits so long, at most. False: it is time to stop.
  virtual bool wait(std::chrono::milliseconds time) = 0;
};

/// Stops at SIGINT, SIGTERM and SIGHUP, and when nobody reads the standard output any more. Blocks
/// these signals and ignores SIGPIPE, for the rest of the process.
class SignalPause final : public Pause {
 public:
  static Result<SignalPause> create();
  bool wait(std::chrono::milliseconds time) override;

 private:
  explicit SignalPause(kernel::Fd signals) : signals_(std::move(signals)) {}
  kernel::Fd signals_;
};

/// Makes lines of events.
class EventPrinter {
 public:
  virtual ~EventPrinter() = default;
  /// What to print of an event that happened at `when`; unset: nothing, it is not wanted.
  virtual std::optional<std::string> print(const kernel::Event& event, WallTime when) = 0;
  /// What to print of losses that were noticed at `when`.
  virtual std::string print_losses(const kernel::EventLosses& since_last, WallTime when) = 0;
};

/// Takes text as it comes. An error with errno EPIPE means that nobody reads it any more.
using Output = std::function<Status(std::string_view)>;
/// To the standard output, past stdio: a line is there as soon as it is written.
Status write_stdout(std::string_view text);

/// Prints events until `count` are printed, `pause` says stop, or the output is closed: all of
/// which is success. What happened before the stop is still printed. `source` has just been opened.
Status watch(kernel::EventSource& source, EventPrinter& printer, std::optional<std::uint64_t> count,
             Pause& pause, const Clock& clock, const Output& output);

}  // namespace weir::ctl
