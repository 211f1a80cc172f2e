// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/arrival_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace weir::replay {
namespace {

// Streams of the seed. Prompts have their own, by serial number (prompt_text.h).
constexpr std::uint64_t kTimes = 1;
constexpr std::uint64_t kClasses = 2;
constexpr std::uint64_t kTenants = 3;
constexpr std::uint64_t kLengths = 4;

template <typename Shared>
std::vector<double> cumulative(const std::vector<Shared>& all) {
  double sum = 0;
  for (const Shared& one : all) sum += one.share;
  std::vector<double> bounds;
  double seen = 0;
  for (const Shared& one : all) bounds.push_back((seen += one.share) / sum);
  bounds.back() = 1;
  return bounds;
}

std::uint32_t choose(const std::vector<double>& bounds, Random& random) {
  const auto found = std::upper_bound(bounds.begin(), bounds.end() - 1, random.unit());
  return static_cast<std::uint32_t>(found - bounds.begin());
}

// Also of what a trace says and --speed stretches: 31 years, so that a time on the clock and this
// after it still fit 64 bits of nanoseconds.
constexpr double kMaxSeconds = 1e9;
constexpr double kMaxTokens = 16 * 1024 * 1024;  // as a trace may say

std::uint32_t scaled(std::uint32_t tokens, double scale, std::optional<std::uint32_t> most) {
  const double wanted = std::clamp(std::round(tokens * scale), 1.0, kMaxTokens);
  const auto length = static_cast<std::uint32_t>(wanted);
  return most ? std::min(length, *most) : length;
}

Duration seconds(double value) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(value, kMaxSeconds)));
}

}  // namespace

Result<ArrivalPlan> ArrivalPlan::create(const Options& options) {
  if (options.trace.empty()) return ArrivalPlan(options, std::nullopt);
  auto trace = read_trace_file(options.trace);
  if (!trace) return std::move(trace).error();
  return of_trace(options, *std::move(trace));
}

ArrivalPlan ArrivalPlan::of_trace(const Options& options, Trace trace) {
  return ArrivalPlan(options, std::move(trace));
}

ArrivalPlan::ArrivalPlan(const Options& options, std::optional<Trace> trace)
    : options_(options),
      trace_(std::move(trace)),
      class_bounds_(cumulative(options.classes)),
      tenant_bounds_(cumulative(options.tenants)),
      times_(options.seed, kTimes),
      classes_(options.seed, kClasses),
      tenants_(options.seed, kTenants),
      lengths_(options.seed, kLengths) {}

std::optional<Arrival> ArrivalPlan::next() {
  if (options_.limit && serial_ >= *options_.limit) return std::nullopt;
  Arrival arrival;
  if (!(trace_ ? next_of_trace(arrival) : next_of_process(arrival))) return std::nullopt;
  if (options_.duration_s && arrival.due >= seconds(*options_.duration_s)) {
    cut_by_duration_ = true;
    return std::nullopt;
  }
  arrival.serial = serial_++;
  arrival.prompt_tokens =
      scaled(arrival.prompt_tokens, options_.scale_lengths, options_.max_prompt_tokens);
  arrival.output_tokens =
      scaled(arrival.output_tokens, options_.scale_lengths, options_.max_output_tokens);
  arrival.request_class = choose(class_bounds_, classes_);
  arrival.tenant = choose(tenant_bounds_, tenants_);
  return arrival;
}

bool ArrivalPlan::next_of_trace(Arrival& arrival) {
  if (serial_ >= trace_->records.size()) return false;
  const TraceRecord& record = trace_->records[serial_];
  arrival.due = due_of(record);
  arrival.prompt_tokens = record.prompt_tokens;
  arrival.output_tokens = record.output_tokens;
  arrival.blocks = trace_->blocks_of(record);
  return true;
}

bool ArrivalPlan::next_of_process(Arrival& arrival) {
  if (options_.poisson_per_s) {
    process_s_ += times_.exponential() / *options_.poisson_per_s;
    arrival.due = seconds(process_s_);
  }
  arrival.prompt_tokens = lengths_.between(options_.prompt_tokens.min, options_.prompt_tokens.max);
  arrival.output_tokens = lengths_.between(options_.output_tokens.min, options_.output_tokens.max);
  return true;
}

Duration ArrivalPlan::due_of(const TraceRecord& record) const {
  return Duration(static_cast<Duration::rep>(
      std::min(static_cast<double>(record.at.count()) / options_.speed, kMaxSeconds * 1e9)));
}

std::optional<std::uint64_t> ArrivalPlan::size() const {
  std::optional<std::uint64_t> size = options_.limit;
  if (trace_) {
    const auto& records = trace_->records;
    auto end = records.end();
    if (options_.duration_s) {
      const Duration limit = seconds(*options_.duration_s);
      end = std::partition_point(records.begin(), records.end(),
                                 [&](const TraceRecord& record) { return due_of(record) < limit; });
    }
    const auto there = static_cast<std::uint64_t>(end - records.begin());
    size = size ? std::min(*size, there) : there;
  }
  return size;
}

std::optional<Duration> ArrivalPlan::span() const {
  std::optional<Duration> span;
  if (options_.duration_s) span = seconds(*options_.duration_s);
  std::optional<Duration> of_load;
  if (const auto count = size(); trace_ && *count > 0) {
    of_load = due_of(trace_->records[*count - 1]);
  } else if (options_.limit && options_.poisson_per_s) {
    of_load = seconds(static_cast<double>(*options_.limit) / *options_.poisson_per_s);
  }
  return span && of_load ? std::min(*span, *of_load) : span ? span : of_load;
}

}  // namespace weir::replay
