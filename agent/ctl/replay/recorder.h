// SPDX-License-Identifier: Apache-2.0
//
// Counts and latencies of a replay, of all requests, of each class and of each tenant.
//
// Every latency counts from the time at which its request was due, so that neither a slow target
// nor a late generator can hide a wait; those marked "from send" do not, and tell the two apart.
// Requests that are due within the warm-up are sent and not counted.
//
//   planned = dropped + ok + refused + errors,  sent + unsent = ok + refused + errors
//
// An unsent request never left, because its connection failed or all were busy for too long. At the
// end of a run nothing else is possible, and nothing is counted twice.
//
// Thread-compatible: one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "agent/base/hdr_histogram.h"
#include "agent/ctl/replay/client.h"
#include "agent/ctl/replay/options.h"

namespace weir::replay {

struct RefusalFigures {
  std::uint64_t count = 0;
  HdrHistogram latency_ns;
};

struct Figures {
  std::uint64_t planned = 0;
  std::uint64_t dropped = 0;  ///< max_inflight requests were unanswered
  std::uint64_t sent = 0;     ///< their last byte was handed to the kernel
  std::uint64_t unsent = 0;
  std::uint64_t ok = 0;
  std::uint64_t refused = 0;
  std::uint64_t errors = 0;
  std::uint64_t degraded = 0;  ///< of ok
  std::uint64_t good = 0;      ///< of ok: met the objective
  std::uint64_t prompt_tokens = 0;
  std::uint64_t completion_tokens = 0;
  // By reason, 64 of each at most; what has another one is under "other".
  std::map<std::string, RefusalFigures> refusals;
  std::map<std::string, std::uint64_t> errors_by_kind;

  HdrHistogram ttft_ns;  ///< to the first text of a stream, to the first byte of another answer
  HdrHistogram itl_ns;   ///< between events with text, of streams
  HdrHistogram e2e_ns;   ///< to the last byte
  HdrHistogram refusal_ns;
  HdrHistogram ttft_from_send_ns;
  HdrHistogram e2e_from_send_ns;
  HdrHistogram refusal_from_send_ns;

  // Of the window in which load was offered: answers that came within it, whenever they were due.
  std::uint64_t window_ok = 0;
  std::uint64_t window_refused = 0;
  std::uint64_t window_good = 0;
  std::uint64_t window_prompt_tokens = 0;
  std::uint64_t window_completion_tokens = 0;
};

/// What happened in one slice of time, warm-up included.
struct Slice {
  std::uint32_t offered = 0;  ///< by the time they were due; the others by when they ended
  std::uint32_t dropped = 0;
  std::uint32_t ok = 0;
  std::uint32_t refused = 0;
  std::uint32_t errors = 0;
  std::uint64_t completion_tokens = 0;
  double ttft_sum_ms = 0;
  double ttft_max_ms = 0;
};

class Recorder final : public ClientObserver {
 public:
  /// `slice` is the length of a Slice.
  Recorder(const Options& options, TimePoint begin, Duration slice);

  /// The request is due; `now` tells how late the generator is. Before Client::send().
  void on_due(const Arrival& arrival, TimePoint now);
  void on_dropped(const Arrival& arrival);
  void on_gap(const Exchange& exchange, Duration gap) override;
  void on_end(const Exchange& exchange, const Answer& answer, TimePoint now) override;
  /// The last request was due: what comes later does not count as throughput.
  void end_window(TimePoint now) { window_end_ = now; }

  [[nodiscard]] const Figures& all() const { return all_; }
  [[nodiscard]] const std::vector<Figures>& classes() const { return classes_; }
  [[nodiscard]] const std::vector<Figures>& tenants() const { return tenants_; }
  /// How late the generator reached a request, and how late it was handed to the kernel.
  [[nodiscard]] const HdrHistogram& lateness_ns() const { return lateness_ns_; }
  [[nodiscard]] const HdrHistogram& send_delay_ns() const { return send_delay_ns_; }
  [[nodiscard]] const std::vector<Slice>& slices() const { return slices_; }
  [[nodiscard]] Duration slice() const { return slice_; }
  [[nodiscard]] std::uint64_t ended() const { return ended_; }
  /// All requests, warm-up included.
  [[nodiscard]] std::uint64_t answered() const { return answered_; }
  /// What the first answer of each kind of refusal and error said, warm-up included.
  [[nodiscard]] const std::map<std::string, std::string>& messages() const { return messages_; }

 private:
  [[nodiscard]] bool measured(const Arrival& arrival) const { return arrival.due >= warmup_; }
  [[nodiscard]] Slice& slice_at(Duration since_begin);
  [[nodiscard]] bool meets_objective(const Exchange& exchange, TimePoint now) const;
  /// Calls visit(figures) for all, the class and the tenant of the request.
  template <typename Visit>
  void each(const Arrival& arrival, Visit visit);

  const TimePoint begin_;
  const Duration warmup_;
  const Duration slice_;
  const std::optional<Objective> objective_;
  std::optional<TimePoint> window_end_;
  Figures all_;
  std::vector<Figures> classes_;
  std::vector<Figures> tenants_;
  HdrHistogram lateness_ns_;
  HdrHistogram send_delay_ns_;
  std::vector<Slice> slices_;
  std::uint64_t ended_ = 0;
  std::uint64_t answered_ = 0;
  std::map<std::string, std::string> messages_;  // 64 at most
};

/// Jain's index of fairness: 1 when all are equal, 1/n when one has everything; 1 of nothing.
[[nodiscard]] double jain_index(const std::vector<double>& values);

}  // namespace weir::replay
