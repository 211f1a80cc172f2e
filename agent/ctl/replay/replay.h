// SPDX-License-Identifier: Apache-2.0
//
// Runs a replay: an open loop on one thread. The time of each request is fixed before the first is
// sent; a slow target makes latencies longer, never the load smaller.
//
// Thread-safety: one thread. Catches SIGINT and SIGTERM while it runs: then it sends nothing more,
// ends what is open as the error "interrupted", and returns as usual.
#pragma once

#include "agent/base/clock.h"
#include "agent/base/result.h"
#include "agent/ctl/replay/options.h"
#include "agent/ctl/replay/report.h"

namespace weir::replay {

struct ProgressReading {
  Duration elapsed{};
  std::optional<Duration> span;  ///< when the last request is due; unset: not known
  std::uint64_t ended = 0;
  std::optional<std::uint64_t> planned;
  const Figures* figures = nullptr;  ///< without the warm-up
  std::size_t inflight = 0;
  bool draining = false;  ///< all were sent
};

class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  [[nodiscard]] virtual Duration period() const = 0;
  virtual void show(const ProgressReading& reading) = 0;
};

/// Precondition: options.complete() succeeded. Fails when the trace cannot be read (as
/// trace_reader.h says), the target cannot be reached (kUnavailable) or there are too few
/// descriptors (kResourceExhausted). What goes wrong later is counted.
[[nodiscard]] Result<Report> run_replay(const Options& options, ProgressSink& progress);

}  // namespace weir::replay
