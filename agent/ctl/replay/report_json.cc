// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>

#include "agent/base/build_info.h"
#include "agent/ctl/replay/report.h"

namespace weir::replay {
namespace {

namespace json = boost::json;

double to_s(Duration duration) { return std::chrono::duration<double>(duration).count(); }

json::value ms_or_null(std::optional<std::uint64_t> ns) {
  if (!ns) return nullptr;
  return static_cast<double>(*ns) / 1e6;
}

json::value ms_or_null(const std::optional<Duration>& duration) {
  if (!duration) return nullptr;
  return to_s(*duration) * 1e3;
}

template <typename Number>
json::value or_null(const std::optional<Number>& number) {
  if (!number) return nullptr;
  return *number;
}

/// For figures of the generator itself: without the curve.
json::object summary(const HdrHistogram& histogram) {
  json::object out;
  out["count"] = histogram.count();
  out["mean"] = nullptr;
  if (const auto mean = histogram.mean()) out["mean"] = *mean / 1e6;
  out["min"] = ms_or_null(histogram.min());
  out["p50"] = ms_or_null(histogram.quantile(0.5));
  out["p90"] = ms_or_null(histogram.quantile(0.9));
  out["p99"] = ms_or_null(histogram.quantile(0.99));
  out["p99_9"] = ms_or_null(histogram.quantile(0.999));
  out["max"] = ms_or_null(histogram.max());
  return out;
}

json::object latency(const HdrHistogram& histogram) {
  json::object out = summary(histogram);
  json::array curve;
  if (histogram.count() > 0) {
    for (int percent = 0; percent < 99; percent += 3) {
      curve.push_back({percent / 100.0, ms_or_null(histogram.quantile(percent / 100.0))});
    }
    // Towards 1 in steps of a tenth of a nine, as far as there are samples to tell.
    for (int step = 20; step <= 60; ++step) {
      const double above = std::pow(10, -step / 10.0);
      if (above * static_cast<double>(histogram.count()) < 1) break;
      curve.push_back({1 - above, ms_or_null(histogram.quantile(1 - above))});
    }
    curve.push_back({1, ms_or_null(histogram.max())});
  }
  out["curve"] = std::move(curve);
  return out;
}

json::object figures_json(const Figures& figures, const Report& report) {
  const double seconds = window_s(report);
  const auto per_s = [&](std::uint64_t count) {
    return seconds > 0 ? json::value(static_cast<double>(count) / seconds) : json::value(nullptr);
  };
  json::object out;
  out["planned"] = figures.planned;
  out["dropped"] = figures.dropped;
  out["sent"] = figures.sent;
  out["unsent"] = figures.unsent;
  out["ok"] = figures.ok;
  out["refused"] = figures.refused;
  out["errors"] = figures.errors;
  out["degraded"] = figures.degraded;
  json::object refusals;
  for (const auto& [reason, refusal] : figures.refusals) {
    refusals[reason] = {{"count", refusal.count}, {"latency_ms", summary(refusal.latency_ns)}};
  }
  out["refusals"] = std::move(refusals);
  json::object errors;
  for (const auto& [kind, count] : figures.errors_by_kind) errors[kind] = count;
  out["errors_by_kind"] = std::move(errors);
  out["prompt_tokens"] = figures.prompt_tokens;
  out["completion_tokens"] = figures.completion_tokens;
  out["ttft_ms"] = latency(figures.ttft_ns);
  out["itl_ms"] = latency(figures.itl_ns);
  out["e2e_ms"] = latency(figures.e2e_ns);
  out["refusal_ms"] = latency(figures.refusal_ns);
  out["from_send"] = {{"ttft_ms", summary(figures.ttft_from_send_ns)},
                      {"e2e_ms", summary(figures.e2e_from_send_ns)},
                      {"refusal_ms", summary(figures.refusal_from_send_ns)}};
  json::object throughput;
  throughput["requests_per_s"] = per_s(figures.window_ok);
  throughput["refusals_per_s"] = per_s(figures.window_refused);
  throughput["prompt_tokens_per_s"] = per_s(figures.window_prompt_tokens);
  throughput["completion_tokens_per_s"] = per_s(figures.window_completion_tokens);
  out["throughput"] = std::move(throughput);
  if (report.options.objective) {
    json::object goodput;
    goodput["met"] = figures.good;
    goodput["requests_per_s"] = per_s(figures.window_good);
    goodput["share_of_planned"] = nullptr;
    if (figures.planned > 0) {
      goodput["share_of_planned"] =
          static_cast<double>(figures.good) / static_cast<double>(figures.planned);
    }
    out["goodput"] = std::move(goodput);
  } else {
    out["goodput"] = nullptr;
  }
  return out;
}

json::object load_json(const Report& report) {
  const Options& options = report.options;
  json::object load;
  load["kind"] = !options.trace.empty() ? "trace" : options.poisson_per_s ? "poisson" : "closed";
  if (report.facts.trace) {
    const TraceFacts& trace = *report.facts.trace;
    load["trace"] = {{"path", options.trace},
                     {"format", trace.format == TraceFormat::kCsv ? "csv" : "jsonl"},
                     {"records", trace.records},
                     {"reordered", trace.reordered}};
    load["speed"] = options.speed;
  } else {
    load["prompt_tokens"] = {options.prompt_tokens.min, options.prompt_tokens.max};
    load["output_tokens"] = {options.output_tokens.min, options.output_tokens.max};
  }
  load["rate_per_s"] = or_null(options.poisson_per_s);
  load["concurrency"] = or_null(options.concurrency);
  load["duration_s"] = or_null(options.duration_s);
  load["limit"] = or_null(options.limit);
  load["warmup_s"] = options.warmup_s;
  load["seed"] = options.seed;
  load["scale_lengths"] = options.scale_lengths;
  load["max_prompt_tokens"] = or_null(options.max_prompt_tokens);
  load["max_output_tokens"] = or_null(options.max_output_tokens);
  load["timeout_s"] = to_s(options.timeout);
  load["connections"] = options.connections;
  load["max_inflight"] = options.max_inflight;
  return load;
}

json::object timeline_json(const Recorder& recorder) {
  json::object timeline;
  timeline["slice_s"] = to_s(recorder.slice());
  json::array offered;
  json::array dropped;
  json::array ok;
  json::array refused;
  json::array errors;
  json::array tokens;
  json::array ttft_mean;
  json::array ttft_max;
  for (const Slice& slice : recorder.slices()) {
    offered.push_back(slice.offered);
    dropped.push_back(slice.dropped);
    ok.push_back(slice.ok);
    refused.push_back(slice.refused);
    errors.push_back(slice.errors);
    tokens.push_back(slice.completion_tokens);
    ttft_mean.push_back(slice.ok > 0 ? json::value(slice.ttft_sum_ms / slice.ok) : nullptr);
    ttft_max.push_back(slice.ok > 0 ? json::value(slice.ttft_max_ms) : nullptr);
  }
  timeline["offered"] = std::move(offered);
  timeline["dropped"] = std::move(dropped);
  timeline["ok"] = std::move(ok);
  timeline["refused"] = std::move(refused);
  timeline["errors"] = std::move(errors);
  timeline["completion_tokens"] = std::move(tokens);
  timeline["ttft_mean_ms"] = std::move(ttft_mean);
  timeline["ttft_max_ms"] = std::move(ttft_max);
  return timeline;
}

json::object generator_json(const Report& report) {
  const ClientReading& client = report.facts.client;
  json::object generator;
  generator["lateness_ms"] = summary(report.recorder->lateness_ns());
  generator["send_delay_ms"] = summary(report.recorder->send_delay_ns());
  generator["cpu_s"] = report.facts.cpu_s;
  generator["connections_opened"] = client.connections_opened;
  generator["connections_peak"] = client.connections_peak;
  generator["inflight_peak"] = client.inflight_peak;
  generator["waited_for_connection"] = client.waited;
  return generator;
}

}  // namespace

json::object to_json(const Report& report) {
  const Options& options = report.options;
  const Recorder& recorder = *report.recorder;
  json::object out;
  out["weir_replay"] = kReportVersion;
  out["build"] = build_id();
  out["started_unix_s"] = report.facts.started_unix_s;
  out["elapsed_s"] = to_s(report.facts.elapsed);
  out["window_s"] = window_s(report);
  out["interrupted"] = report.facts.interrupted;
  out["target"] = "http://" + options.target.authority + options.target.path;
  out["api"] = options.api == Api::kInfer ? "infer" : "completions";
  out["stream"] = options.stream;
  out["model"] = options.model;
  out["load"] = load_json(report);
  if (const auto& slo = options.objective) {
    out["slo"] = {{"ttft_ms", ms_or_null(slo->ttft)},
                  {"itl_ms", ms_or_null(slo->itl)},
                  {"e2e_ms", ms_or_null(slo->e2e)}};
  } else {
    out["slo"] = nullptr;
  }
  out["generator"] = generator_json(report);
  out["all"] = figures_json(recorder.all(), report);
  json::object messages;
  for (const auto& [reason, message] : recorder.messages()) messages[reason] = message;
  out["messages"] = std::move(messages);
  json::object classes;
  for (std::size_t i = 0; i < options.classes.size(); ++i) {
    const RequestClass& each = options.classes[i];
    json::object figures = figures_json(recorder.classes()[i], report);
    figures["share"] = each.share;
    figures["priority"] = each.priority;
    figures["deadline_ms"] = nullptr;
    if (each.deadline) figures["deadline_ms"] = each.deadline->count();
    classes[each.name] = std::move(figures);
  }
  out["classes"] = std::move(classes);
  json::object tenants;
  for (std::size_t i = 0; i < options.tenants.size(); ++i) {
    if (options.tenants[i].name.empty()) continue;
    json::object figures = figures_json(recorder.tenants()[i], report);
    figures["share"] = options.tenants[i].share;
    tenants[options.tenants[i].name] = std::move(figures);
  }
  std::vector<double> requests;
  for (const Figures& each : recorder.tenants()) {
    requests.push_back(static_cast<double>(each.ok));
  }
  out["fairness"] = nullptr;
  if (!tenants.empty()) {
    out["fairness"] = {{"jain_tokens", jain_index(tokens_by_tenant(report))},
                       {"jain_requests", jain_index(requests)}};
  }
  out["tenants"] = std::move(tenants);
  out["timeline"] = timeline_json(recorder);
  return out;
}

}  // namespace weir::replay
