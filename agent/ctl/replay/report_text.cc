// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "agent/ctl/replay/report.h"
#include "agent/ctl/text_table.h"

namespace weir::replay {
namespace {

using ctl::Row;

std::string ms_text(std::optional<std::uint64_t> ns) {
  if (!ns) return "-";
  const double ms = static_cast<double>(*ns) / 1e6;
  return fmt::format("{:.{}f}", ms, ms < 10 ? 3 : ms < 100 ? 2 : ms < 1000 ? 1 : 0);
}

Row latency_row(std::string_view who, std::string_view what, const HdrHistogram& histogram) {
  return {std::string(who),
          std::string(what),
          fmt::format("{}", histogram.count()),
          ms_text(histogram.quantile(0.5)),
          ms_text(histogram.quantile(0.9)),
          ms_text(histogram.quantile(0.99)),
          ms_text(histogram.quantile(0.999)),
          ms_text(histogram.max())};
}

class Text {
 public:
  explicit Text(const Report& report) : report_(report) {
    counts_.push_back(
        {"", "planned", "ok", "refused", "errors", "dropped", "requests/s", "tokens/s"});
    if (report.options.objective) counts_.front().push_back("goodput/s");
    latencies_.push_back({"ms", "", "count", "p50", "p90", "p99", "p99.9", "max"});
  }

  void add(const std::string& name, const Figures& figures) {
    const double seconds = window_s(report_);
    const auto per_s = [&](std::uint64_t count) {
      return seconds > 0 ? fmt::format("{:.1f}", static_cast<double>(count) / seconds) : "-";
    };
    Row row{name,
            fmt::format("{}", figures.planned),
            fmt::format("{}", figures.ok),
            fmt::format("{}", figures.refused),
            fmt::format("{}", figures.errors),
            fmt::format("{}", figures.dropped),
            per_s(figures.window_ok),
            per_s(figures.window_completion_tokens)};
    if (report_.options.objective) row.push_back(per_s(figures.window_good));
    counts_.push_back(std::move(row));
    if (figures.itl_ns.count() > 0 || report_.options.stream) {
      latencies_.push_back(latency_row(name, "first token", figures.ttft_ns));
      latencies_.push_back(latency_row(name, "between tokens", figures.itl_ns));
    }
    latencies_.push_back(latency_row(name, "answer", figures.e2e_ns));
    if (figures.refused > 0) {
      latencies_.push_back(latency_row(name, "refusal", figures.refusal_ns));
    }
  }

  [[nodiscard]] std::string text() const {
    return ctl::format_table(counts_, 1) + "\n" + ctl::format_table(latencies_, 2);
  }

 private:
  const Report& report_;
  std::vector<Row> counts_;
  std::vector<Row> latencies_;
};

std::string reasons(const Recorder& recorder) {
  const Figures& all = recorder.all();
  const auto line = [&](std::string_view what, const std::string& reason, std::uint64_t count) {
    const auto said = recorder.messages().find(reason);
    return fmt::format("{} {}: {}{}\n", what, reason, count,
                       said == recorder.messages().end() ? "" : ", the first: " + said->second);
  };
  std::string out;
  for (const auto& [reason, refusal] : all.refusals) {
    out += line("refused", reason, refusal.count);
  }
  for (const auto& [kind, count] : all.errors_by_kind) out += line("error", kind, count);
  if (all.dropped > 0) {
    out += fmt::format("dropped here, because --max-inflight were unanswered: {}\n", all.dropped);
  }
  return out;
}

}  // namespace

std::string load_name(const Options& options) {
  if (options.poisson_per_s) return fmt::format("poisson {:g}/s", *options.poisson_per_s);
  if (options.concurrency) return fmt::format("closed, {} at a time", *options.concurrency);
  return options.speed == 1
             ? fmt::format("trace {}", options.trace)
             : fmt::format("trace {} at {:g} times its speed", options.trace, options.speed);
}

double window_s(const Report& report) {
  return std::chrono::duration<double>(report.facts.window).count();
}

std::vector<double> tokens_by_tenant(const Report& report) {
  std::vector<double> tokens;
  for (const Figures& each : report.recorder->tenants()) {
    tokens.push_back(static_cast<double>(each.prompt_tokens + each.completion_tokens));
  }
  return tokens;
}

std::string to_text(const Report& report) {
  const Options& options = report.options;
  const Recorder& recorder = *report.recorder;
  Text text(report);
  text.add("all", recorder.all());
  if (options.classes.size() > 1) {
    for (std::size_t i = 0; i < options.classes.size(); ++i) {
      text.add("class " + options.classes[i].name, recorder.classes()[i]);
    }
  }
  if (options.tenants.size() > 1) {
    for (std::size_t i = 0; i < options.tenants.size(); ++i) {
      text.add("tenant " + options.tenants[i].name, recorder.tenants()[i]);
    }
  }
  std::string out = fmt::format("{} to {}{}\n\n", load_name(options), options.target.authority,
                                report.facts.interrupted ? ", interrupted" : "");
  out += text.text() + "\n" + reasons(recorder);
  if (options.tenants.size() > 1) {
    out += fmt::format("Jain index of the tokens of {} tenants: {:.4f}\n", options.tenants.size(),
                       jain_index(tokens_by_tenant(report)));
  }
  out += fmt::format(
      "generator: late by p99 {} ms, max {} ms; {} connections, {} in flight at most, {:.2f} s "
      "CPU\n",
      ms_text(recorder.lateness_ns().quantile(0.99)), ms_text(recorder.lateness_ns().max()),
      report.facts.client.connections_opened, report.facts.client.inflight_peak,
      report.facts.cpu_s);
  return out;
}

}  // namespace weir::replay
