// SPDX-License-Identifier: Apache-2.0
//
// When which request is due: fixed by the trace or by the seed before the first one is sent, so
// that nothing that the target does can change it.
//
// Thread-compatible: one thread at a time. Times, classes, tenants and lengths are drawn from
// streams of their own: another --class does not move an arrival.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "agent/base/clock.h"
#include "agent/ctl/replay/options.h"
#include "agent/ctl/replay/random.h"
#include "agent/ctl/replay/trace_reader.h"

namespace weir::replay {

struct Arrival {
  std::uint64_t serial = 0;
  Duration due{};                         ///< since the start
  std::uint32_t prompt_tokens = 1;        ///< >= 1, scaled and capped
  std::uint32_t output_tokens = 1;        ///< >= 1, scaled and capped
  std::uint32_t request_class = 0;        ///< index in Options::classes
  std::uint32_t tenant = 0;               ///< index in Options::tenants
  std::span<const std::uint64_t> blocks;  ///< of the trace; empty: no prefix is shared
};

class ArrivalPlan {
 public:
  /// Reads the trace if there is one. Precondition: options.complete() succeeded.
  [[nodiscard]] static Result<ArrivalPlan> create(const Options& options);
  /// The same of a trace that was read.
  [[nodiscard]] static ArrivalPlan of_trace(const Options& options, Trace trace);

  /// The next arrival, by time; unset: that was all. Of a closed loop arrivals are due at once, and
  /// only their number is bounded.
  [[nodiscard]] std::optional<Arrival> next();

  /// Unset: no trace.
  [[nodiscard]] const std::optional<Trace>& trace() const { return trace_; }
  /// Whether next() ended because the rest is due behind the duration asked for.
  [[nodiscard]] bool cut_by_duration() const { return cut_by_duration_; }
  /// How many there will be, as far as that is known beforehand.
  [[nodiscard]] std::optional<std::uint64_t> size() const;
  /// When the last one is due, about.
  [[nodiscard]] std::optional<Duration> span() const;

 private:
  explicit ArrivalPlan(const Options& options, std::optional<Trace> trace);

  [[nodiscard]] bool next_of_trace(Arrival& arrival);
  [[nodiscard]] bool next_of_process(Arrival& arrival);
  [[nodiscard]] Duration due_of(const TraceRecord& record) const;

  Options options_;
  std::optional<Trace> trace_;
  std::vector<double> class_bounds_;  // cumulative shares, the last is 1
  std::vector<double> tenant_bounds_;
  Random times_;
  Random classes_;
  Random tenants_;
  Random lengths_;
  std::uint64_t serial_ = 0;
  bool cut_by_duration_ = false;
  double process_s_ = 0;
};

}  // namespace weir::replay
