// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/recorder.h"

#include <algorithm>

namespace weir::replay {
namespace {

// An hour of slices of 10 ms; what comes later counts in the last one.
constexpr std::size_t kMaxSlices = 360'000;

// Of refusals and of errors. Servers put what they like into their codes, also the request's id,
// and each reason has its histogram.
constexpr std::size_t kMaxReasons = 64;

/// The entry of `reason`, or of "other" when there are so many already.
template <typename Value>
Value& entry_of(std::map<std::string, Value>& by_reason, const std::string& reason) {
  const auto found = by_reason.find(reason);
  if (found != by_reason.end()) return found->second;
  return by_reason[by_reason.size() < kMaxReasons ? reason : "other"];
}

std::uint64_t to_ns(Duration duration) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(std::chrono::nanoseconds(duration).count(), 0));
}

/// When the answer begins, for somebody who reads it.
std::optional<TimePoint> beginning(const Exchange& exchange) {
  return exchange.first_text ? exchange.first_text : exchange.first_byte;
}

}  // namespace

Recorder::Recorder(const Options& options, TimePoint begin, Duration slice)
    : begin_(begin),
      warmup_(
          std::chrono::duration_cast<Duration>(std::chrono::duration<double>(options.warmup_s))),
      slice_(slice),
      objective_(options.objective),
      classes_(options.classes.size()),
      tenants_(options.tenants.size()) {}

template <typename Visit>
void Recorder::each(const Arrival& arrival, Visit visit) {
  visit(all_);
  visit(classes_[arrival.request_class]);
  visit(tenants_[arrival.tenant]);
}

Slice& Recorder::slice_at(Duration since_begin) {
  const auto number = static_cast<std::size_t>(std::max<Duration::rep>(since_begin / slice_, 0));
  const std::size_t index = std::min(number, kMaxSlices - 1);
  if (index >= slices_.size()) slices_.resize(index + 1);
  return slices_[index];
}

void Recorder::on_due(const Arrival& arrival, TimePoint now) {
  ++slice_at(arrival.due).offered;
  if (!measured(arrival)) return;
  lateness_ns_.record(to_ns(now - (begin_ + arrival.due)));
  each(arrival, [](Figures& figures) { ++figures.planned; });
}

void Recorder::on_dropped(const Arrival& arrival) {
  ++ended_;
  ++slice_at(arrival.due).dropped;
  if (measured(arrival)) each(arrival, [](Figures& figures) { ++figures.dropped; });
}

void Recorder::on_gap(const Exchange& exchange, Duration gap) {
  if (!measured(exchange.arrival)) return;
  each(exchange.arrival, [&](Figures& figures) { figures.itl_ns.record(to_ns(gap)); });
}

bool Recorder::meets_objective(const Exchange& exchange, TimePoint now) const {
  if (!objective_) return true;
  const auto first = beginning(exchange);
  if (objective_->ttft && (!first || *first - exchange.due > *objective_->ttft)) return false;
  if (objective_->e2e && now - exchange.due > *objective_->e2e) return false;
  if (objective_->itl && exchange.texts > 1) {
    const Duration text_time = *exchange.last_text - *exchange.first_text;
    if (text_time / static_cast<std::int64_t>(exchange.texts - 1) > *objective_->itl) return false;
  }
  return true;
}

void Recorder::on_end(const Exchange& exchange, const Answer& answer, TimePoint now) {
  using Kind = Answer::Kind;
  ++ended_;
  const bool ok = answer.kind == Kind::kOk;
  const bool refused = answer.kind == Kind::kRefused;
  if (ok || refused) ++answered_;
  if (!answer.message.empty() && messages_.size() < kMaxReasons) {
    messages_.emplace(answer.reason, answer.message);
  }
  const Duration total = now - exchange.due;
  const auto first = beginning(exchange);

  Slice& slice = slice_at(now - begin_);
  slice.ok += ok ? 1U : 0U;
  slice.refused += refused ? 1U : 0U;
  slice.errors += !ok && !refused ? 1U : 0U;
  if (ok) {
    slice.completion_tokens += answer.completion_tokens;
    const double ttft_ms =
        std::chrono::duration<double, std::milli>(first.value_or(now) - exchange.due).count();
    slice.ttft_sum_ms += ttft_ms;
    slice.ttft_max_ms = std::max(slice.ttft_max_ms, ttft_ms);
  }

  const bool good = ok && meets_objective(exchange, now);
  if (now >= begin_ + warmup_ && (!window_end_ || now <= *window_end_)) {
    each(exchange.arrival, [&](Figures& figures) {
      figures.window_ok += ok ? 1U : 0U;
      figures.window_refused += refused ? 1U : 0U;
      figures.window_good += good ? 1U : 0U;
      figures.window_prompt_tokens += ok ? answer.prompt_tokens : 0;
      figures.window_completion_tokens += ok ? answer.completion_tokens : 0;
    });
  }
  if (!measured(exchange.arrival)) return;
  if (exchange.sent) send_delay_ns_.record(to_ns(*exchange.sent - exchange.due));
  each(exchange.arrival, [&](Figures& figures) {
    // A response that overtook the end of its request was to one that did not leave whole.
    ++(exchange.sent || exchange.first_byte ? figures.sent : figures.unsent);
    if (refused) {
      ++figures.refused;
      RefusalFigures& reason = entry_of(figures.refusals, answer.reason);
      ++reason.count;
      reason.latency_ns.record(to_ns(total));
      figures.refusal_ns.record(to_ns(total));
      if (exchange.sent) figures.refusal_from_send_ns.record(to_ns(now - *exchange.sent));
    } else if (!ok) {
      ++figures.errors;
      ++entry_of(figures.errors_by_kind, answer.reason);
    } else {
      ++figures.ok;
      figures.degraded += answer.degraded ? 1U : 0U;
      figures.good += good ? 1U : 0U;
      figures.prompt_tokens += answer.prompt_tokens;
      figures.completion_tokens += answer.completion_tokens;
      figures.e2e_ns.record(to_ns(total));
      if (first) figures.ttft_ns.record(to_ns(*first - exchange.due));
      if (exchange.sent) figures.e2e_from_send_ns.record(to_ns(now - *exchange.sent));
      if (exchange.sent && first) {
        figures.ttft_from_send_ns.record(to_ns(*first - *exchange.sent));
      }
    }
  });
}

double jain_index(const std::vector<double>& values) {
  double sum = 0;
  double squares = 0;
  for (const double value : values) {
    sum += value;
    squares += value * value;
  }
  return squares > 0 ? sum * sum / (static_cast<double>(values.size()) * squares) : 1;
}

}  // namespace weir::replay
